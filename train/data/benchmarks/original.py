"""The original implementation's training lists, which its authors share as archives of JSON files.

Their names are not reliable, so they are recognised by the format of their first entry:

    VQA v2, GQA            {"img_id", "sent" or "question", "question_id", "label": {answer: score}}
    MSRVTT-QA, MSVD-QA     {"video", "sent" or "question", "question_id", "label": {answer: score}}
    MSR-VTT                {"video", "caption": text or list of texts}
    AudioCaps              {"audio", "caption": text or list of texts}
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from epalm.errors import EPALMError
from train.data.benchmarks.base import caption_items, question_type
from train.data.benchmarks.files import Files, read_json, records
from train.data.manifest import Item
from train.data.text import open_text

HEAD = 1 << 16  # characters; the first entry is far shorter
SPLITS = {"valid": "val", "validation": "val", "train_standard": "train", "val_standard": "val"}

Row = dict[str, Any]


def lists(files: Files, medium: str, other: str, names: str) -> Iterator[tuple[str, Path, list[Row]]]:
    """Split, path and entries of every such list.

    Args:
        medium, other: keys that the first entry must have.
        names: pattern for the file name in the first entry, to distinguish benchmarks of the same format.

    Raises:
        EPALMError: a list is damaged, or there are two for one split.
    """
    found: dict[str, Path] = {}
    for path in files.annotations:
        first = first_entry(path)
        if first and other in first and re.fullmatch(names, Path(str(first.get(medium, ""))).stem):
            split = split_of(path.stem)
            if found.setdefault(split, path) != path:
                raise EPALMError(
                    f"Both {found[split]} and {path} exist; give --source the folder with the right one."
                )
            yield split, path, records(path, read_json(path), **{medium: str})


def first_entry(path: Path) -> Row | None:
    """The first object of a JSON list, read from the head of the file; None for other files."""
    if path.suffix.lower() != ".json":
        return None
    try:
        with open_text(path, errors="replace") as file:
            head = file.read(HEAD).lstrip()
    except OSError as error:
        raise EPALMError(f"{path} cannot be read: {error.strerror}.") from error
    try:
        entry, _ = json.JSONDecoder().raw_decode(head.removeprefix("[").lstrip())
    except ValueError:
        return None
    return entry if head.startswith("[") and isinstance(entry, dict) else None


def split_of(name: str) -> str:
    """ "msrvtt_caption_train7k" -> "train7k", "valid" -> "val"; "karpathy_train" stays as it is."""
    if name.startswith("karpathy_"):
        return name
    return SPLITS.get(name) or SPLITS.get(last := name.rsplit("_", 1)[-1], last)


def question_of(path: Path, number: int, row: Row) -> str:
    """The question of entry `number`; EPALMError if it has none."""
    question = row.get("sent", row.get("question"))
    if not isinstance(question, str):
        raise EPALMError(f"{path} has neither 'sent' nor 'question' in entry {number}.")
    return question


def read_questions(files: Files, medium: str, names: str, grouped: bool) -> dict[str, list[Item]]:
    """Lists of questions that have all accepted answers in `label`: GQA and the video benchmarks.

    Args:
        grouped: break results down by the question's first word.
    """
    splits = {}
    for split, path, rows in lists(files, medium, "label", names):
        records(path, rows, question_id=(int, str), label=dict)
        splits[split] = [
            Item(
                str(row["question_id"]),
                files.media(Path(row[medium]).stem),
                question := question_of(path, number, row),
                tuple(answer for answer, score in row["label"].items() if score),
                question_type(question) if grouped else {},
            )
            for number, row in enumerate(rows, 1)
        ]
    return splits


def read_captions(files: Files, medium: str, names: str) -> dict[str, list[Item]]:
    """Lists of captions, with several captions per entry or several entries per file."""
    splits = {}
    for split, path, rows in lists(files, medium, "caption", names):
        captions: dict[tuple[str, ...], list[str]] = {}
        for row in records(path, rows, caption=(str, list)):
            texts = row["caption"] if isinstance(row["caption"], list) else [row["caption"]]
            captions.setdefault((Path(row[medium]).stem,), []).extend(texts)
        splits[split] = caption_items(split, captions, files)
    return splits
