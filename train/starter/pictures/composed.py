"""Pictures composed of Debian's cut-outs: several of one thing, or two things beside or above each other.

WORK/composed.jsonl has a line for each: {"way": "count", "pictures": [number of the picture], "labels": [of
it], "number": 1 to 6}, or {"way": "across" or "down", "pictures": [left or upper one, the other], "labels"}.
WORK/composed-features.safetensors has the tensors of features.safetensors, but (N, D): there is one view.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image
from safetensors.torch import save
from torch import Tensor

from epalm.encoders.load import load_encoder
from epalm.files import atomic, read_json_lines, write_json_lines
from epalm.media.recipes import RECIPES
from train.starter.clips.collect import is_cut_out
from train.starter.pictures.features import ENCODER, encode_all, random_background
from train.starter.scale import FULL, Scale
from train.starter.words import ARTICLE_OF, is_plural

SIDE = 260  # pixels
MADE = 3000  # pictures, half of them of one thing
MOST = 6  # of one thing
WAYS = ("across", "down")


def countable(label: str) -> bool:
    """False of what takes no "a", such as bread, the sun or jeans."""
    last = label.split()[-1]
    return label not in ARTICLE_OF and last not in ARTICLE_OF and not is_plural(last)


def plan_composed(cut_outs: dict[int, str], made: int = MADE, seed: int = 0) -> list[dict[str, Any]]:
    """The lines of composed.jsonl.

    Args:
        cut_outs: label of each one, by the picture's number.
    """
    rng, numbers = random.Random(seed), sorted(cut_outs)
    rows: list[dict[str, Any]] = []
    for i in range(made if len(set(cut_outs.values())) > 1 else 0):
        first = rng.choice(numbers)
        if i % 2:
            row: dict[str, Any] = {"way": "count", "pictures": [first], "number": rng.randint(1, MOST)}
        else:
            second = rng.choice([n for n in numbers if cut_outs[n] != cut_outs[first]])
            row = {"way": rng.choice(WAYS), "pictures": [first, second]}
        rows.append(row | {"labels": [cut_outs[n] for n in row["pictures"]]})
    return rows


def compose(
    row: dict[str, Any], things: list[Image.Image], background: Image.Image, rng: random.Random
) -> Image.Image:
    """The picture of a line: RGBA things on an RGB background of SIDE by SIDE pixels."""
    canvas = background.copy()
    if row["way"] == "count":
        grid = 2 if row["number"] <= 4 else 3
        cell = SIDE / grid
        places = rng.sample([(x, y) for x in range(grid) for y in range(grid)], row["number"])
        for column, line in places:
            side = cell * rng.uniform(0.75, 0.95)
            paste(canvas, things[0], side, (column + 0.5) * cell, (line + 0.5) * cell)
        return canvas
    for i, thing in enumerate(things):
        along, aside = SIDE * (0.25 + 0.5 * i), rng.uniform(SIDE / 3, SIDE * 2 / 3)
        x, y = (along, aside) if row["way"] == "across" else (aside, along)
        paste(canvas, thing, SIDE / 2 * rng.uniform(0.75, 0.98), x, y)
    return canvas


def paste(canvas: Image.Image, thing: Image.Image, side: float, x: float, y: float) -> None:
    """Put a thing whose longer side is `side` pixels so that its centre is at x, y."""
    scale = side / max(thing.size)
    small = thing.resize((max(4, round(thing.width * scale)), max(4, round(thing.height * scale))))
    canvas.paste(small, (round(x - small.width / 2), round(y - small.height / 2)), small)


def encode_composed(work: Path, seed: int = 0, scale: Scale = FULL) -> None:
    """Compose the training pictures' cut-outs and write their features and lines."""
    rows = read_json_lines(work / "manifest.jsonl")
    paths = [work / row["path"] for row in rows]
    blurred = [
        path
        for path, row in zip(paths, rows, strict=True)
        if row["is_photo"] and row["category"] == "building" and row["split"] == "train"
    ]

    def read(number: int) -> Image.Image:
        return Image.open(paths[number]).convert("RGBA")

    cut_outs = {
        i: row["label"]
        for i, row in enumerate(rows)
        if row["split"] == "train" and countable(row["label"]) and is_cut_out(read(i), row["is_photo"])
    }
    planned, recipe = plan_composed(cut_outs, scale.count(MADE), seed), RECIPES["image"]["starter"]

    def media() -> Iterator[Tensor]:
        for i, row in enumerate(planned):
            rng = random.Random(f"{seed}/composed/{i}")
            background = random_background((SIDE, SIDE), blurred, rng)
            yield recipe(compose(row, [read(number) for number in row["pictures"]], background, rng))

    if planned:
        tensors = encode_all(media(), load_encoder(ENCODER, progress=print))
        with atomic(work / "composed-features.safetensors") as out:
            out.write(save(tensors))
    write_json_lines(work / "composed.jsonl", planned)
