"""Your own data, by task and modality; settings name one of these instead of a benchmark.

data: {dataset: own_image_caption, train: data/own_image_caption/train.jsonl, …}

`python -m train prepare own_image_caption --source DIR` reads the table in a folder (see table.py) and splits
its files: a tenth each for test and val. A column `split`, or tables named train, val and test, define the
splits instead. No file is in two splits, and copies of a file count as the same file.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from epalm.errors import EPALMError
from epalm.files import sha256_of
from train.data.benchmarks.base import CAPTION_METRICS, Dataset, place
from train.data.benchmarks.files import Files
from train.data.benchmarks.table import KINDS, WANTED, CutText, Row, read_table
from train.data.manifest import Item

MODALITIES: tuple[Literal["image", "video", "audio"], ...] = ("image", "video", "audio")
SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
}
SPLITS |= {"test": "test", "testing": "test"}
ORDER = ("test", "val", "train")  # a file that is in several splits stays in the first of these
SHARE = 0.1  # of the files, for test and for val


def read(task: Literal["caption", "qa"], files: Files) -> dict[str, list[Item]]:
    """The splits of the table or tables."""
    tables = {
        path: rows for path in files.annotations if path.suffix in KINDS and (rows := table(path, task))
    }
    named = {path: split for path in tables if (split := SPLITS.get(path.stem.lower()))}
    if not tables:
        return {}
    given: list[tuple[str | None, Path, Row]]
    if named:
        given = [(split, path, row) for path, split in named.items() for row in tables[path]]
    elif len(tables) == 1:
        ((path, rows),) = tables.items()
        given = [(split_of(path, row), path, row) for row in rows]
    else:
        one, two = list(tables)[:2]
        raise EPALMError(
            f"{one} and {two} are both tables of captions or questions: keep one, or name them train, val "
            "and test."
        )
    names = {(path, row.media): find(files, path, row.media) for _, path, row in given}
    same = copies([name for name in names.values() if name not in files.missing])
    media = [
        (split, same.get(names[path, row.media], names[path, row.media]), row) for split, path, row in given
    ]
    splits = dealt(files, media)
    return {split: items(task, split, rows, files.source) for split, rows in splits.items() if rows}


def table(path: Path, task: str) -> list[Row] | None:
    """A table's rows; None for other files, since a .txt file may be anything.

    Raises:
        EPALMError: the table is damaged; of a .txt file, only if it has the columns of one.
    """
    try:
        return read_table(path, task)
    except CutText:
        raise
    except EPALMError:
        if path.suffix == ".txt":
            return None
        raise


def split_of(path: Path, row: Row) -> str | None:
    """The split that a row names, if it names one."""
    if row.split is None:
        return None
    if row.split not in SPLITS:
        raise EPALMError(f"{path} has the split {row.split!r}; use train, val and test.")
    return SPLITS[row.split]


def find(files: Files, table: Path, name: str) -> str:
    """Path of a file named in a table: relative to the table's folder or the source, or by its name alone."""
    for folder in (table.parent, files.source):
        path = os.path.normpath(os.path.join(os.path.abspath(folder), name))
        if os.path.isfile(path):
            return path
    base = os.path.basename(name.replace("\\", "/"))
    return files.media(base, os.path.splitext(base)[0])


def copies(paths: Sequence[str]) -> dict[str, str]:
    """Path -> the first path with the same content, for files of equal size."""
    sizes: dict[int, list[str]] = {}
    for path in dict.fromkeys(paths):
        sizes.setdefault(os.path.getsize(path), []).append(path)
    first: dict[str, str] = {}
    found = {}
    for path in (path for same in sizes.values() if len(same) > 1 for path in same):
        try:
            digest = sha256_of(Path(path))
        except OSError:  # opening it later reports the error
            continue
        found[path] = first.setdefault(digest, path)
    return found


def dealt(files: Files, rows: Sequence[tuple[str | None, str, Row]]) -> dict[str, list[tuple[str, Row]]]:
    """Rows by split, as given or else by the hash of the file names. No file is in two splits."""
    at: dict[str, str] = {}
    for split in ORDER:
        for given, medium, _ in rows:
            if given == split:
                at.setdefault(medium, split)
    lost = sum(given is not None and at[medium] != given for given, medium, _ in rows)
    if lost:
        files.notes.append(f"{lost:,} entries are left out because another split has the same file.")
    free = list(dict.fromkeys(medium for given, medium, _ in rows if given is None and medium not in at))
    if not free and "val" not in at.values():  # only train is given, and perhaps test
        free = [medium for medium, split in at.items() if split == "train"]
    free.sort(key=lambda medium: place(os.path.relpath(medium, files.source)))
    size = max(1, round(SHARE * len(free)))
    wanted = [split for split in ("test", "val") if split not in at.values() and not (split == "test" and at)]
    if len(free) > len(wanted):
        for number, split in enumerate(wanted):
            at |= dict.fromkeys(free[number * size : (number + 1) * size], split)
    splits: dict[str, list[tuple[str, Row]]] = {split: [] for split in reversed(ORDER)}
    for given, medium, row in rows:
        split = at.get(medium, "train")
        if given in (None, split) or (given == "train" and split == "val" and medium in free):
            splits[split].append((medium, row))
    return splits


def items(task: str, split: str, rows: Sequence[tuple[str, Row]], source: Path) -> list[Item]:
    """Items of a split: one per caption for training, one per file or question for evaluation."""
    together: dict[tuple[str, str | None], list[str]] = {}
    for medium, row in rows:
        together.setdefault((medium, row.question), []).extend(row.answers)
    found = []
    for number, ((medium, question), texts) in enumerate(together.items()):
        name = (
            Path(os.path.relpath(medium, os.path.abspath(source))).as_posix()
            if os.path.isabs(medium)
            else medium
        )
        if task == "qa":
            found.append(Item(f"{name}-{number}", medium, question, tuple(texts)))
        elif split == "train":
            found += [Item(f"{name}-{i}", medium, None, (text,)) for i, text in enumerate(texts)]
        else:
            found.append(Item(name, medium, None, tuple(texts)))
    return found


def own(modality: Literal["image", "video", "audio"], task: Literal["caption", "qa"]) -> Dataset:
    kind = {"caption": "captions", "qa": "questions"}[task]
    columns = " and ".join(f"'{name}'" for name in WANTED[task])
    return Dataset(
        name=f"own_{modality}_{task}",
        title=f"Own {modality} {kind}",
        task=task,
        modality=modality,
        metrics=CAPTION_METRICS if task == "caption" else ("exact match",),
        splits={"train": "eight tenths of the media", "val": "a tenth", "test": "a tenth"},
        needs=dict.fromkeys(("train", "val", "test"), "a table, or one with more media"),
        download=f"Put one CSV, TSV or JSON file with the columns {columns} into the folder, or three called "
        "train, val and test.",
        layout=(f"pets.csv with {columns}", {"image": "1.jpg", "video": "1.mp4", "audio": "1.wav"}[modality]),
        read=partial(read, task),
    )


OWN = {
    dataset.name: dataset
    for modality in MODALITIES
    for dataset in (own(modality, "caption"), own(modality, "qa"))
}
