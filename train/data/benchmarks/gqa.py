"""GQA: questions about Visual Genome pictures with one answer each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from epalm.errors import EPALMError
from train.data.benchmarks import original
from train.data.benchmarks.base import Dataset
from train.data.benchmarks.files import Files, read_json, records
from train.data.manifest import Item

FIELDS = ("imageId", "question", "answer", "types")


def read(files: Files) -> dict[str, list[Item]]:
    """The balanced official splits, or the original's lists."""
    splits = {
        split: official(files, path)
        for split in ("train", "val", "testdev", "test")
        if (path := files.find(f"{split}_balanced_questions.json"))
    }
    return splits or original.read_questions(files, "img_id", r"(?!COCO_).+", grouped=False)


def official(files: Files, path: Path) -> list[Item]:
    content = read_json(path, shrink)
    if not isinstance(content, dict):
        raise EPALMError(f"{path} is not what its name says: it has no questions by number.")
    rows = records(path, list(content.values()), imageId=str, question=str)
    return [
        Item(
            number,
            files.media(row["imageId"]),
            row["question"],
            (row["answer"],) if isinstance(row.get("answer"), str) else (),  # test has none
            groups(row.get("types")),
        )
        for number, row in zip(content, rows, strict=True)
    ]


def shrink(value: dict[str, Any]) -> dict[str, Any]:
    """Keep only the fields that are used: the questions' programs would fill most of a gigabyte."""
    return {key: value[key] for key in FIELDS if key in value} if "imageId" in value else value


def groups(types: Any) -> dict[str, str]:
    """GQA's question types: "structural" (query, verify, …) and "semantic" (attr, rel, …)."""
    if not isinstance(types, dict):
        return {}
    return {key: types[key] for key in ("structural", "semantic") if isinstance(types.get(key), str)}


GQA = Dataset(
    name="gqa",
    title="GQA",
    task="qa",
    modality="image",
    metrics=("exact match",),
    splits={
        "train": "balanced training questions",
        "val": "balanced validation questions",
        "testdev": "balanced test-dev questions, on which results are reported",
        "test": "balanced test questions, without answers",
    },
    needs={split: f"{split}_balanced_questions.json" for split in ("train", "val", "testdev", "test")},
    download="questions1.2.zip and images.zip are at https://cs.stanford.edu/people/dorarad/gqa/download.html.",
    layout=("{train,val,testdev}_balanced_questions.json", "images/n161313.jpg"),
    read=read,
)
