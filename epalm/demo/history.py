"""The answers of a visit: shown with thumbnails, asked again, downloaded as JSON or CSV.

An entry is a plain dict, because it lives in the visitor's session on the server and travels to the page.
"""

from __future__ import annotations

import csv
import io
import json
import time
from pathlib import Path
from typing import Any

from PIL import Image

from epalm.media.reader import Reader

Entry = dict[str, Any]
MOST = 50  # entries of a visit; the oldest make room
SIDE = 160  # pixels of a thumbnail
COLUMNS = (
    "time",
    "model",
    "modality",
    "file",
    "question",
    "answer",
    "confidence",
    "beams",
    "max_new_tokens",
    "seconds",
)


def entry(
    modality: str,
    path: Path,
    question: str | None,
    answer: str,
    confidence: float | None,
    model: str,
    beams: int,
    tokens: int,
    seconds: float,
) -> Entry:
    """What is remembered of one answer."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "model": model,
        "modality": modality,
        "file": path.name,
        "question": question,
        "answer": answer,
        "confidence": None if confidence is None else round(confidence, 3),
        "beams": beams,
        "max_new_tokens": tokens or None,
        "seconds": round(seconds, 2),
        "path": str(path),  # on the server, to ask again; not in the downloads
    }


def title(item: Entry) -> str:
    """One line about an entry."""
    return item["answer"] if item["question"] is None else f"{item['question']} {item['answer']}"


def thumbnail(recipe: Any, item: Entry, reader: Reader) -> Image.Image:
    """A small picture of an entry's file: the picture, the first frame that is seen, or the spectrogram."""
    if item["modality"] == "image":
        image = recipe.open(Path(item["path"]), reader)
    else:
        shown, _ = recipe.preview(Path(item["path"]), reader)
        image = shown[0][0] if item["modality"] == "video" else shown
    image = image.copy()
    image.thumbnail((SIDE, SIDE))
    return image


def as_json(entries: list[Entry]) -> str:
    """The visit as a JSON list."""
    return json.dumps([{key: item[key] for key in COLUMNS} for item in entries], indent=2, ensure_ascii=False)


def as_csv(entries: list[Entry]) -> str:
    """The visit as a table. A cell that a spreadsheet would run as a formula gets an apostrophe in front."""
    out = io.StringIO()
    table = csv.writer(out)
    table.writerow(COLUMNS)
    for item in entries:
        cells = ["" if item[key] is None else str(item[key]) for key in COLUMNS]
        table.writerow(
            [f"'{cell}" if cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell for cell in cells]
        )
    return out.getvalue()
