"""Manifests: the items of a split, of a benchmark or of your own data, one JSON line per item.

{"id": "12-0", "media": "photos/12.jpg", "prompt": null, "answers": ["a dog on a sofa"]}
{"id": "458752", "media": "photos/9.jpg", "prompt": "What is this?", "answers": ["pizza", "pizza", "food"]}

items = load_manifest(Path("data/vqa_v2/val.jsonl"))
save_manifest(items, Path("data/small/val.jsonl"))
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from epalm.config import from_dict
from epalm.errors import EPALMError, reason
from epalm.files import write_json_lines
from train.data.text import MARK, open_text
from train.progress import bar

BLANK = f" \t\r\n{MARK}"
FORM = (
    'A line looks like {"id": "1", "media": "photos/1.jpg", "prompt": null, "answers": ["a dog"]}; '
    "`python -m train prepare own_image_caption --source DIR` makes one from a CSV, TSV or JSON file."
)


@dataclass(frozen=True, slots=True)
class Item:
    """One example: a file with a question and its answers, or with captions.

    Fields:
        id: unique in the split.
        media: path of the picture, video or sound.
        prompt: the question; None for captions.
        answers: the reference captions, or all human answers to the question, including repeats. Empty if a
            test split has none.
        group: groups to break results down by, such as {"question_type": "how many"}.
    """

    id: str
    media: str
    prompt: str | None
    answers: tuple[str, ...]
    group: dict[str, str] = field(default_factory=dict)


def rng_of(item: Item, use: str) -> random.Random:
    """Random numbers that depend on an item's id and what they are for, and on nothing else.

    They are those of `random.Random(f"{use}/{item.id}")`, which refuses ids that name files whose names are
    not UTF-8.
    """
    return random.Random(f"{use}/{item.id}".encode("utf-8", "surrogatepass"))


def load_manifest(path: Path) -> list[Item]:
    """The items of a manifest; relative media paths start from the manifest's folder.

    Raises:
        EPALMError: the file is missing or empty, or a line is invalid or repeats an id.
    """
    items: list[Item] = []
    lines: dict[str, int] = {}  # id -> line
    try:
        size = path.stat().st_size
        with open_text(path) as file, bar(f"reading {path.name}", size, "B") as shown:
            for number, line in enumerate(file, 1):
                shown.update(len(line))
                if not line.strip(BLANK):
                    continue
                where = f"{path}:{number}"
                item = parse(line, where, path.parent)
                if lines.setdefault(item.id, number) != number:
                    raise EPALMError(f"{where} repeats the id {item.id!r} of line {lines[item.id]}.")
                items.append(item)
    except FileNotFoundError as error:
        raise EPALMError(
            f"{path} cannot be read: {error.strerror}. It is a manifest, which `python -m train prepare "
            "DATASET --source DIR` writes."
        ) from error
    except OSError as error:
        raise EPALMError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise EPALMError(f"{path} is not UTF-8 text ({reason(error)}); save it as UTF-8.") from error
    if not items:
        raise EPALMError(f"{path} has no items.")
    return items


def parse(line: str, where: str, folder: Path) -> Item:
    """Parse one line of a manifest; error messages begin with `where`."""
    try:
        row = json.loads(line.strip(BLANK))
    except ValueError as error:
        if not line.lstrip(BLANK).startswith("{"):
            raise EPALMError(f"{where} is not a line of a manifest: {line.strip()[:40]!r}. {FORM}") from error
        raise EPALMError(f"{where} is not valid JSON ({reason(error)}).") from error
    if isinstance(row, list) or (isinstance(row, dict) and not row.keys() & {"id", "media", "answers"}):
        found = f"the keys {', '.join(map(repr, row)) or 'none'}" if isinstance(row, dict) else "a list"
        raise EPALMError(f"{where} must be an object with named fields, but it has {found}. {FORM}")
    # `from_dict` explains errors but is too slow for a million valid lines.
    item = Item(**row | {"answers": tuple(row["answers"])}) if fits(row) else from_dict(Item, row, where)
    if not item.media:
        raise EPALMError(f"{where} has an empty 'media'; write the path of a picture, video or sound.")
    media = os.path.join(folder, item.media)  # an absolute path stays as it is
    return Item(item.id, media, item.prompt, item.answers, item.group)


def fits(row: Any) -> bool:
    """Whether a row has exactly the keys and types of an Item."""
    return (
        isinstance(row, dict)
        and row.keys() - {"group"} == {"id", "media", "prompt", "answers"}
        and isinstance(row["id"], str)
        and isinstance(row["media"], str)
        and isinstance(row["prompt"], str | None)
        and isinstance(row["answers"], list)
        and isinstance(row.get("group", {}), dict)
        and all(isinstance(text, str) for text in (*row["answers"], *row.get("group", {}).values()))
    )


def save_manifest(items: Iterable[Item], path: Path) -> None:
    """Write a manifest atomically, creating its folder.

    Raises:
        EPALMError: the folder or the file cannot be written.
    """
    write_json_lines(path, map(to_row, items))


def to_row(item: Item) -> dict[str, Any]:
    """An item as a JSON object; an empty `group` is left out."""
    row = {"id": item.id, "media": item.media, "prompt": item.prompt, "answers": item.answers}
    return row | ({"group": item.group} if item.group else {})
