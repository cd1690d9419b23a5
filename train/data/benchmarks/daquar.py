"""DAQUAR: questions about photos of rooms (NYU Depth v2), answered by one word, a number, or several things.

Files alternate lines with questions and answers. An answer with commas, "book, scissor", is a set: a
prediction is right if it names exactly these things, in any order (the metric "set match"). "_" in an answer
is a space, and the photo's number is removed from the question.

The photos of the official test list are `test`. A tenth of the others, chosen by the hash of their names, is
`val`; the rest is `train`, and `trainval` is both.
"""

from __future__ import annotations

import re
from pathlib import Path

from epalm.errors import EPALMError
from train.data.benchmarks.base import Dataset, place
from train.data.benchmarks.files import Files, read_lines
from train.data.manifest import Item

# The authors' splits: all questions, or only those whose answers are among 37 things.
OFFICIAL = {"": "qa.894.raw.{}.txt", "37_": "qa.37.raw.{}.txt"}
PAIRS, LISTS = "all_qa_pairs.txt", {"train": "train_images_list.txt", "test": "test_images_list.txt"}
VAL = 0.1  # of the training photos

PHOTO = re.compile(r"\bimage\s*(\d+)\b")
AT_THE_END = re.compile(r"(?:\s+(?:in|of|on|from|at))?(?:\s+(?:the|this))?\s*\bimage\s*\d+\s*\?*$")
KINDS = {"how many": "number", "what color": "colour", "what colour": "colour", "what is the color": "colour"}


def read(files: Files) -> dict[str, list[Item]]:
    """The authors' files, or all pairs in one file with two lists of photos."""
    splits: dict[str, list[Item]] = {}
    for prefix, name in OFFICIAL.items():
        parts = {part: read_pairs(files, path) for part in LISTS if (path := files.find(name.format(part)))}
        splits |= {f"{prefix}{split}": items for split, items in divided(parts).items()}
    pairs = files.find(PAIRS)
    lists = {part: path for part, name in LISTS.items() if (path := files.find(name))}
    if not splits and pairs and lists:
        items = read_pairs(files, pairs)
        photos = {part: set(read_lines(path)) for part, path in lists.items()}
        splits = divided(
            {part: [i for i in items if Path(i.media).stem in names] for part, names in photos.items()}
        )
    return splits


def divided(parts: dict[str, list[Item]]) -> dict[str, list[Item]]:
    """The official parts, with the training part divided into train and val by photo."""
    trainval = parts.get("train", [])
    val = [item for item in trainval if place(Path(item.media).stem) < VAL]
    train = [item for item in trainval if place(Path(item.media).stem) >= VAL]
    splits = {"train": train, "val": val, "trainval": trainval, "test": parts.get("test", [])}
    return {split: items for split, items in splits.items() if items}


def read_pairs(files: Files, path: Path) -> list[Item]:
    """The questions of a file; an item's id is its line number."""
    lines = read_lines(path)
    if len(lines) % 2:
        raise EPALMError(f"{path} has {len(lines)} lines, but questions and answers must alternate.")
    items = []
    for number, (question, answer) in enumerate(zip(lines[::2], lines[1::2], strict=True)):
        photo = PHOTO.search(question)
        if photo is None:
            raise EPALMError(f"{path}:{2 * number + 1} names no photo, such as image12: {question[:60]!r}.")
        media = files.media(f"image{photo[1]}")
        text = PHOTO.sub("the photo", AT_THE_END.sub("", question)).rstrip(" ?") + "?"
        things = ", ".join(part.strip().replace("_", " ") for part in answer.split(","))
        items.append(Item(str(2 * number + 1), media, text, (things,), {"answer_type": kind(text, things)}))
    return items


def kind(question: str, answer: str) -> str:
    """The type of the answer: a number, a colour, several things or one."""
    for begin, found in KINDS.items():
        if question.lower().startswith(begin):
            return found
    return "things" if "," in answer else "thing"


DAQUAR = Dataset(
    name="daquar",
    title="DAQUAR",
    task="qa",
    modality="image",
    metrics=("set match",),
    splits={
        "train": "questions about nine tenths of the official training photos",
        "val": "questions about the others",
        "trainval": "both, the official training questions",
        "test": "the official test questions, on which results are reported",
        "37_train": "and 37_val, 37_trainval, 37_test: the questions with 37 different answers",
    },
    needs={
        **{split: OFFICIAL[""].format("train") for split in ("train", "val", "trainval")},
        "test": OFFICIAL[""].format("test"),
    },
    download='Questions and nyu_depth_images.tar are on the authors\' page, "Visual Turing Challenge" at '
    "https://www.mpi-inf.mpg.de; copies on Kaggle have all_qa_pairs.txt and two lists of photos.",
    layout=(
        "qa.894.raw.{train,test}.txt, or all_qa_pairs.txt with {train,test}_images_list.txt",
        "nyu_depth_images/image1.png",
    ),
    read=read,
)
