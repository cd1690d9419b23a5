"""Read a table of captions or questions: CSV, TSV, JSON or JSON lines.

rows = read_table(Path("pets.csv"), "caption")   # media, caption
rows = read_table(Path("pets.json"), "qa")       # media, question, answer

Columns of a CSV file are recognised by common names; without a header, the first column is the file. JSON is
a list of such objects, or {"1.jpg": "a dog", "2.jpg": ["a cat", "two cats"]}.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from epalm.errors import EPALMError, reason
from train.data.benchmarks.files import EXTENSIONS, read_json, read_lines, records
from train.data.text import open_text

KINDS = (".csv", ".tsv", ".json", ".jsonl", ".txt")
DELIMITERS = "\t;,|"
NAMES = {
    "media": "media|medium|file|filename|file_name|path|name|image|photo|picture|video|clip|audio|sound",
    "caption": r"(?:caption|captions|text|description|sentence|sentences|raw|reference|references)(?:_?\d+)?",
    "question": "question|prompt|query",
    "answer": r"(?:answer|answers|label|labels)(?:_?\d+)?",
    "split": "split|part|subset",
}
WANTED = {"caption": ("media", "caption"), "qa": ("media", "question", "answer")}
MEDIA = {extension for extensions in EXTENSIONS.values() for extension in extensions}


class CutText(EPALMError):
    """A row of a table with the wanted columns has more cells than those: a text was not put in quotes."""


@dataclass(frozen=True)
class Row:
    """A row of a table; captions have no question."""

    media: str
    question: str | None
    answers: tuple[str, ...]
    split: str | None


def read_table(path: Path, task: str) -> list[Row] | None:
    """The rows of a table; None if it has other columns or is not a table.

    Raises:
        CutText: a row has too many cells.
        EPALMError: the table is damaged in another way.
    """
    if path.suffix == ".json":
        objects = of_json(path)
    elif path.suffix == ".jsonl":
        objects = [object_of(line, f"{path}:{number}") for number, line in enumerate(read_lines(path), 1)]
    else:
        objects = list(of_csv(path, task))
    if not objects or made_here(objects[0]) or not (columns := columns_of(list(objects[0]), task)):
        return None
    return [row for entry in objects if (row := row_of(entry, columns, task)) is not None]


def made_here(entry: dict[str, Any]) -> bool:
    """Whether a row belongs to a manifest or checked.jsonl that an earlier run left in the folder."""
    return entry.keys() - {"group"} == {"id", "media", "prompt", "answers"} or "opened_as" in entry


def of_json(path: Path) -> list[dict[str, Any]]:
    """Objects of a JSON file: a list, the first list of objects inside it, name -> text, or COCO's format."""
    content = read_json(path)
    if isinstance(content, dict) and {"images", "annotations"} <= content.keys():
        files = {
            row["id"]: row["file_name"]
            for row in records(path, content["images"], id=(int, str), file_name=str)
        }
        return [
            {"media": files.get(row["image_id"]), **row}
            for row in records(path, content["annotations"], image_id=(int, str))
        ]
    if isinstance(content, dict):
        inner = [value for value in content.values() if isinstance(value, list) and value]
        inner = [value for value in inner if isinstance(value[0], dict)]
        if inner:
            content = inner[0]
        elif all(isinstance(value, str | list) for value in content.values()):
            content = [{"media": name, "caption": texts} for name, texts in content.items()]
    rows = content if isinstance(content, list) else []
    return [row for row in rows if isinstance(row, dict)]


def object_of(line: str, where: str) -> dict[str, Any]:
    """The JSON object in a line."""
    try:
        row = json.loads(line)
    except ValueError as error:
        raise EPALMError(f"{where} is not valid JSON ({reason(error)}).") from error
    if not isinstance(row, dict):
        raise EPALMError(f"{where} is not an object with named fields.")
    return row


def of_csv(path: Path, task: str) -> Iterator[dict[str, Any]]:
    """The rows of a CSV or TSV file, as column name -> value."""
    try:
        with open_text(path, newline="") as file:
            first = file.readline()
            file.seek(0)
            delimiter = max(DELIMITERS, key=first.count)
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            rows = [(reader.line_num, row) for row in reader]
    except OSError as error:
        raise EPALMError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, csv.Error) as error:
        raise EPALMError(f"{path} is not a valid CSV file ({reason(error)}).") from error
    rows = [(number, row) for number, row in rows if any(cell.strip() for cell in row)]
    if not rows:
        return
    first_row = rows[0][1]
    header = [name.strip().lower() for name in first_row]
    if Path(first_row[0].strip()).suffix.lower() in MEDIA:  # no header
        header = list(WANTED[task])
    else:
        rows = rows[1:]
    wanted = columns_of(header, task) is not None  # other tables may look as they like
    for number, row in rows:
        if wanted and any(cell.strip() for cell in row[len(header) :]):
            raise CutText(
                f"{path}:{number} has {len(row)} cells, but the table has {len(header)} columns: put texts "
                f"with {delimiter!r} in double quotes."
            )
        yield dict(zip(header, row, strict=False))


def columns_of(names: list[str], task: str) -> dict[str, list[str]] | None:
    """The columns of each kind; None if a required kind is missing."""
    found = {
        kind: [name for name in names if re.fullmatch(NAMES[kind], name.strip().lower())]
        for kind in (*WANTED[task], "split")
    }
    return found if all(found[kind] for kind in WANTED[task]) else None


def row_of(entry: dict[str, Any], columns: dict[str, list[str]], task: str) -> Row | None:
    """A row; None if the file, the question or the text is missing."""
    media = first_of(entry, columns["media"])
    question = first_of(entry, columns["question"]) if task == "qa" else None
    answers = tuple(
        text.strip()
        for name in columns["caption" if task == "caption" else "answer"]
        for text in listed(entry.get(name))
        if text.strip()
    )
    if not media or not answers or question == "":
        return None
    return Row(media, question, answers, first_of(entry, columns["split"]).lower() or None)


def first_of(entry: dict[str, Any], names: list[str]) -> str:
    """The first value that is not empty, as text."""
    return next((str(entry[name]).strip() for name in names if entry.get(name) not in (None, "")), "")


def listed(value: Any) -> list[str]:
    """The texts of a value, which may be one or a list."""
    values = value if isinstance(value, list) else [value]
    texts = (next(iter(value.values()), None) if isinstance(value, dict) else value for value in values)
    return [str(text) for text in texts if text is not None]
