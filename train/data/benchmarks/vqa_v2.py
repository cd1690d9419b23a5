"""VQA v2: questions about COCO pictures with ten human answers each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from epalm.errors import EPALMError
from train.data.benchmarks import original
from train.data.benchmarks.base import Dataset, Submission
from train.data.benchmarks.files import Files, member, read_json, records
from train.data.manifest import Item

# The official script changed in March 2021: see train/metrics/vqa.py. The first metric selects the best
# epoch.
SINCE_2021, BEFORE_2021 = "VQA accuracy since March 2021", "VQA accuracy before March 2021"

# Manifest -> the part of the official file names.
OFFICIAL = {"train": "train2014", "val": "val2014", "test": "test2015", "test-dev": "test-dev2015"}

QUESTIONS, ANSWERS = "v2_OpenEnded_mscoco_{}_questions.json", "v2_mscoco_{}_annotations.json"
KARPATHY = "dataset_coco.json"

GROUPS: tuple[str, ...] = ("question_type", "answer_type")

Annotations = dict[int, dict[str, Any]]  # by question_id


def read(files: Files) -> dict[str, list[Item]]:
    """Official splits, and Karpathy's if dataset_coco.json is there; or the original's lists."""
    splits: dict[str, list[Item]] = {}
    for split, year in OFFICIAL.items():
        if questions := files.find(QUESTIONS.format(year)):
            splits[split] = official(files, questions, year)
    if not splits:
        return read_original(files)
    if (coco := files.find(KARPATHY)) and splits.keys() >= {"train", "val"}:
        splits |= karpathy(coco, splits["train"] + splits["val"])
    return splits


def official(files: Files, path: Path, year: str) -> list[Item]:
    rows = records(
        path, member(path, read_json(path), "questions"), image_id=int, question_id=int, question=str
    )
    answers = None if year.startswith("test") else read_annotations(files, year)
    prefix = f"COCO_{year.replace('-dev', '')}"
    return [
        item(files, f"{prefix}_{row['image_id']:012d}", row["question_id"], row["question"], answers)
        for row in rows
    ]


def read_annotations(files: Files, year: str) -> Annotations:
    """The human answers to a year's questions; EPALMError if their file is missing."""
    name = ANSWERS.format(year)
    path = files.find(name)
    if path is None:
        raise EPALMError(f"{name} is not under {files.source}: it has the answers to the questions.")
    # Six million small objects would fill gigabytes, so each answer is reduced to its text right away.
    content = read_json(
        path, lambda value: value["answer"] if value.keys() >= {"answer", "answer_id"} else value
    )
    rows = records(path, member(path, content, "annotations"), question_id=int, answers=list)
    return {row["question_id"]: row for row in rows}


def item(files: Files, picture: str, number: int, question: str, answers: Annotations | None) -> Item:
    """One question; `answers` is None if they are not published."""
    media = files.media(picture, picture.rsplit("_", 1)[-1])  # since 2017 COCO's names are plain numbers
    if answers is None:
        return Item(str(number), media, question, ())
    if number not in answers:
        raise EPALMError(
            f"The annotation files under {files.source} have no answers to question {number}: they belong to "
            "other questions, or a file is incomplete."
        )
    row = answers[number]
    group = {key: str(row[key]) for key in GROUPS if key in row}
    return Item(str(number), media, question, tuple(row["answers"]), group)


def karpathy(coco: Path, items: list[Item]) -> dict[str, list[Item]]:
    """The questions of the official splits, regrouped by Karpathy's split of the pictures."""
    images = records(coco, member(coco, read_json(coco), "images"), cocoid=int, split=str)
    split_of = {image["cocoid"]: image["split"] for image in images}
    splits: dict[str, list[Item]] = {f"karpathy_{split}": [] for split in ("train", "val", "test")}
    for one in items:
        split = split_of.get(int(Path(one.media).stem.rsplit("_", 1)[-1]))
        if split is None:
            raise EPALMError(f"{coco} does not list the picture of question {one.id}; download it again.")
        splits[f"karpathy_{'train' if split == 'restval' else split}"].append(one)
    return splits


def read_original(files: Files) -> dict[str, list[Item]]:
    """The original's lists provide the questions; the answers come from the official annotations of the years
    that the pictures are from.
    """
    splits: dict[str, list[Item]] = {}
    answers: dict[str, Annotations] = {}
    for split, path, rows in original.lists(files, "img_id", "label", "COCO_.*"):
        records(path, rows, question_id=int)
        splits[split] = []
        for number, row in enumerate(rows, 1):
            year = year_of(path, row["img_id"])
            if year not in answers:
                answers[year] = read_annotations(files, year)
            question = original.question_of(path, number, row)
            splits[split].append(item(files, row["img_id"], row["question_id"], question, answers[year]))
    return splits


def year_of(path: Path, picture: str) -> str:
    """ "train2014" or "val2014", from a picture's name; EPALMError for others."""
    for year in ("train2014", "val2014"):
        if year in picture:
            return year
    raise EPALMError(f"{path} has the picture {picture!r}; expected a name like COCO_val2014_000000391895.")


VQA_V2 = Dataset(
    name="vqa_v2",
    title="VQA v2",
    task="qa",
    modality="image",
    metrics=(SINCE_2021, BEFORE_2021),
    splits={
        "train": "official training questions (the paper's OPT-6.7B adapter)",
        "val": "official validation questions",
        "karpathy_train": "train and val without the next two (the paper's OPT-2.7B adapter)",
        "karpathy_val": "questions about Karpathy's validation pictures",
        "karpathy_test": "questions about Karpathy's test pictures",
        "test": "official test questions, without answers",
        "test-dev": "the part of them that the server scores at once, without answers",
    },
    needs={
        **{split: QUESTIONS.format(year) for split, year in OFFICIAL.items()},
        **dict.fromkeys(("karpathy_train", "karpathy_val", "karpathy_test"), KARPATHY),
    },
    submission=Submission(
        lambda split: f"v2_OpenEnded_mscoco_{OFFICIAL.get(split, split)}_epalm_results.json",
        lambda item, text: {"question_id": int(item.id), "answer": text},
    ),
    download="Questions and annotations of VQA v2 are at https://visualqa.org/download.html, COCO's 2014 "
    "pictures at https://cocodataset.org/#download, and dataset_coco.json, for the karpathy_ splits, in "
    "https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip.",
    layout=(
        "v2_OpenEnded_mscoco_{train,val}2014_questions.json",
        "v2_mscoco_{train,val}2014_annotations.json",
        "dataset_coco.json",
        "{train,val}2014/COCO_val2014_000000391895.jpg",
    ),
    read=read,
)
