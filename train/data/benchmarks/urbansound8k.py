"""UrbanSound8K: slices of up to four seconds of ten classes of city sounds.

The slices are in ten folds that share no recordings. Fold 10 is `test`, the last of the other folds found is
`val`, and the rest is `train`. The question is "what do you hear?", the answer is the class. Without the
table, fold and class come from the names of folders and files.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from train.data.benchmarks.base import Dataset, by_fold
from train.data.benchmarks.esc50 import item
from train.data.benchmarks.files import Files, read_csv
from train.data.manifest import Item

TABLE = "UrbanSound8K.csv"
HELD_OUT = 10
CLASSES = (
    "air conditioner", "car horn", "children playing", "dog bark", "drilling", "engine idling", "gun shot",
    "jackhammer", "siren", "street music",
)  # fmt: skip
SLICE = re.compile(r"\d+-(\d)-\d+-\d+")  # recording, class, occurrence, slice
FOLDER = re.compile(r"fold(\d+)")


def read(files: Files) -> dict[str, list[Item]]:
    """The splits, from the table or from the file names."""
    if path := files.find(TABLE):
        rows = read_csv(path, "slice_file_name", "fold", "class")
        found = [(row["fold"], item(files, row["slice_file_name"], row["class"])) for row in rows]
        return by_fold(found, HELD_OUT)
    return by_fold(from_names(files), HELD_OUT)


def from_names(files: Files) -> Iterable[tuple[str, Item]]:
    """Fold and item of each slice in a fold's folder."""
    for path in files.all_media():
        name, folder = SLICE.fullmatch(path.stem), FOLDER.fullmatch(path.parent.name)
        if name and folder:
            yield folder[1], item(files, path.name, CLASSES[int(name[1])])


URBANSOUND8K = Dataset(
    name="urbansound8k",
    title="UrbanSound8K",
    task="qa",
    modality="audio",
    metrics=("exact match",),
    splits={
        "train": "the folds before val's",
        "val": "fold 9 (the last one below 10 that is there)",
        "test": "fold 10, on which results are reported",
    },
    needs={"train": TABLE, "val": "a second fold of slices", "test": "the slices of fold 10"},
    download="UrbanSound8K.tar.gz is at https://urbansounddataset.weebly.com/urbansound8k.html "
    "(CC BY-NC 3.0).",
    layout=("metadata/UrbanSound8K.csv", "audio/fold1/101415-3-0-2.wav"),
    read=read,
)
