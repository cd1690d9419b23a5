"""The starter's pictures, clips and sounds as manifests, one question each (see train/studies).

WORK/{pictures,clips,sounds}-{train,val,test}.jsonl. Trained is one answer per item; in the test split every
name of the thing counts. It shares no picture, background, speaker or recording with the others; the
validation split may.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from epalm.files import read_json_lines
from train.data.manifest import Item, save_manifest
from train.starter.pictures.batches import WORDS_OF

VALIDATION = 20  # every so many training items one is for validation

Row = dict[str, Any]  # of manifest.jsonl, clips.jsonl or sounds.jsonl
KINDS: dict[str, tuple[str, str, Callable[[Row], str], Callable[[Row], set[str]]]] = {
    # name: rows, question, the answer that is trained, further ones that are right
    "pictures": (
        "manifest.jsonl",
        "what is this?",
        lambda r: r["label"],
        lambda r: WORDS_OF.get(r["label"], set()),
    ),
    "clips": ("clips.jsonl", "how does it move?", lambda r: r["motion"], lambda r: set()),
    "sounds": ("sounds.jsonl", "what do you hear?", lambda r: r["label"], lambda r: set(r["words"])),
}


def write_manifests(work: Path) -> None:
    """Three manifests for each of the three kinds of media."""
    for name, (file, question, answer, others) in KINDS.items():
        rows = read_json_lines(work / file)
        splits: dict[str, list[Item]] = {"train": [], "val": [], "test": []}
        for number, row in enumerate(rows):
            if not row["label_seen"]:
                continue
            split = row["split"]
            if split == "train" and number % VALIDATION == 0:
                split = "val"
            right = (answer(row), *sorted(others(row) - {answer(row)} if split == "test" else ()))
            splits[split].append(
                Item(str(number), row["path"], question, right, {"kind": row["category"] or "other"})
            )
        for split, items in splits.items():
            save_manifest(items, work / f"{name}-{split}.jsonl")
