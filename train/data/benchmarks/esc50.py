"""ESC-50 and ESC-10: five-second clips of fifty (or ten) classes of environmental sounds.

The clips are in five folds that share no recordings. Fold 5 is `test`, the last of the other folds found is
`val`, and the rest is `train`. The question is "what do you hear?", the answer is the class.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from train.data.benchmarks.base import Dataset, by_fold
from train.data.benchmarks.files import Files, read_csv
from train.data.manifest import Item

TABLE = "esc50.csv"
HELD_OUT = 5
QUESTION = "what do you hear?"
CLIP = re.compile(r"(\d)-\d+-[A-Z].*")  # fold, recording, take
FOLDER = re.compile(r"\d{3} - (.+)")  # ESC-10's classes: "001 - Dog bark"

# ESC-10's names of classes that have another name in ESC-50.
ESC10_NAMES = {
    "dog": "dog bark",
    "crying_baby": "baby cry",
    "sneezing": "person sneeze",
    "crackling_fire": "fire crackling",
}


def read_esc50(files: Files) -> dict[str, list[Item]]:
    """All classes, from the table."""
    path = files.find(TABLE)
    rows = read_csv(path, "filename", "fold", "category") if path else []
    return by_fold(((row["fold"], item(files, row["filename"], row["category"])) for row in rows), HELD_OUT)


def read_esc10(files: Files) -> dict[str, list[Item]]:
    """Ten classes, from ESC-50's table or from the folders of the ESC-10 repository."""
    if path := files.find(TABLE):
        rows = [
            row for row in read_csv(path, "filename", "fold", "category", "esc10") if row["esc10"] == "True"
        ]
        names = (ESC10_NAMES.get(row["category"], row["category"]) for row in rows)
        found = [
            (row["fold"], item(files, row["filename"], name)) for row, name in zip(rows, names, strict=True)
        ]
        return by_fold(found, HELD_OUT)
    return by_fold(from_folders(files), HELD_OUT)


def from_folders(files: Files) -> Iterable[tuple[str, Item]]:
    """Fold and item of each clip in a folder named after a class."""
    for path in files.all_media():
        clip, folder = CLIP.fullmatch(path.stem), FOLDER.fullmatch(path.parent.name)
        if clip and folder:
            yield clip[1], item(files, path.name, folder[1])


def item(files: Files, name: str, label: str) -> Item:
    """A clip and its class in plain words."""
    stem, words = name.rsplit(".", 1)[0], label.replace("_", " ").lower()
    return Item(stem, files.media(stem), QUESTION, (words,), {"class": words})


ESC50 = Dataset(
    name="esc50",
    title="ESC-50",
    task="qa",
    modality="audio",
    metrics=("exact match",),
    splits={
        "train": "the folds before val's",
        "val": "fold 4 (the last one below 5 that is there)",
        "test": "fold 5, on which results are reported",
    },
    needs={"train": TABLE, "val": "a second fold of clips", "test": "the clips of fold 5"},
    download="ESC-50 is at https://github.com/karolpiczak/ESC-50 (2,000 clips, CC BY-NC).",
    layout=("meta/esc50.csv", "audio/1-100032-A-0.wav"),
    read=read_esc50,
)
ESC10 = replace(
    ESC50,
    name="esc10",
    title="ESC-10",
    download="The 400 clips are at https://github.com/karolpiczak/ESC-10 (CC0 and CC BY), and part of "
    "ESC-50, https://github.com/karolpiczak/ESC-50.",
    layout=("001 - Dog bark/1-17367-A.ogg, or ESC-50's meta/esc50.csv and audio/",),
    read=read_esc10,
)
