"""The frozen encoder's features of public photos: described scenes, things, and rooms that are asked about.

WORK/photo-features.jsonl has a line for each photo: {"photo", "kind", "split", "captions", "class",
"questions", "views"}. The tensors of WORK/photo-features.safetensors are those of features.safetensors, but
(M, D) of all views of all photos, one photo after the other; each one's first view is the photo itself.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image, ImageEnhance
from safetensors.torch import save
from torch import Tensor

from epalm.encoders.load import load_encoder
from epalm.files import atomic, read_json_lines, write_json_lines
from epalm.media.recipes import RECIPES
from train.data.benchmarks.daquar import DAQUAR
from train.data.benchmarks.files import Files
from train.starter.pictures.features import ENCODER, encode_all
from train.starter.pictures.public import class_photos, flickr_photos
from train.starter.scale import FULL, Scale

VIEWS = {"scene": 5, "class": 8, "room": 4}  # of a photo; there are few photos of classes
SMALLEST = {"scene": 0.5, "class": 0.35, "room": 0.8}  # share of the photo's area that a view shows
FLIPPED = ("scene", "class")  # what is on the left of a room is asked for


def plan_photos(public: Path | None) -> list[dict[str, Any]]:
    """The lines of photo-features.jsonl; none for sets that have no folder in `public`.

    Raises:
        EPALMError: a set's folder holds something else.
    """
    rows = [
        row("scene" if photo.captions else "class", str(photo.path), photo.split)
        | {"captions": list(photo.captions), "class": photo.label}
        for photo in [*flickr_photos(public), *class_photos(public)]
    ]
    return rows + room_rows(public)


def row(kind: str, path: str, split: str) -> dict[str, Any]:
    return {
        "photo": path,
        "kind": kind,
        "split": split,
        "captions": [],
        "class": None,
        "questions": [],
        "views": VIEWS[kind],
    }


def room_rows(public: Path | None) -> list[dict[str, Any]]:
    """The training photos of DAQUAR with their questions; its test photos are never looked at."""
    if public is None or not (public / "daquar").is_dir():
        print("daquar: no folder of this name, so the starter learns nothing from it", flush=True)
        return []
    splits = DAQUAR.read(Files(public / "daquar", "image"))
    asked: dict[str, list[list[str]]] = defaultdict(list)
    for item in splits.get("trainval", []):
        if item.prompt and Path(item.media).is_file():
            asked[item.media].append([item.prompt, item.answers[0]])
    return [row("room", path, "train") | {"questions": questions} for path, questions in asked.items()]


def random_view(photo: Image.Image, kind: str, rng: random.Random) -> Image.Image:
    """A part of an RGB photo, perhaps mirrored, in somewhat other colours."""
    area, stretch = rng.uniform(SMALLEST[kind], 1.0), rng.uniform(0.8, 1.25)
    width, height = (
        max(8, round(side * min(1.0, share**0.5)))
        for side, share in zip(photo.size, (area * stretch, area / stretch), strict=True)
    )
    left, top = (
        rng.randint(0, max(0, whole - part)) for whole, part in zip(photo.size, (width, height), strict=True)
    )
    view = photo.crop((left, top, min(left + width, photo.width), min(top + height, photo.height)))
    if kind in FLIPPED and rng.random() < 0.5:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for change, least, most in (
        (ImageEnhance.Brightness, 0.75, 1.25),
        (ImageEnhance.Color, 0.6, 1.3),
        (ImageEnhance.Contrast, 0.8, 1.2),
    ):
        view = change(view).enhance(rng.uniform(least, most))
    return view


def encode_photos(work: Path, public: Path | None, seed: int = 0, scale: Scale = FULL) -> None:
    """Public sets of photos -> WORK/photo-features.safetensors, then WORK/photo-features.jsonl."""
    rows = scale.part(plan_photos(public), lambda row: (row["kind"], row["split"]))
    rows = [row | {"views": scale.views(row["views"])} for row in rows]
    recipe = RECIPES["image"]["starter"]

    def media() -> Iterator[Tensor]:
        for i, each in enumerate(rows):
            photo = recipe.open(Path(each["photo"]))
            for view in range(each["views"]):
                rng = random.Random(f"{seed}/{view}/{i}")
                yield recipe(random_view(photo, each["kind"], rng) if view else photo)

    if rows:
        tensors = encode_all(media(), load_encoder(ENCODER, progress=print))
        with atomic(work / "photo-features.safetensors") as out:
            out.write(save(tensors))
    write_json_lines(work / "photo-features.jsonl", rows)


def read_photos(work: Path) -> list[dict[str, Any]]:
    """The photos that were encoded."""
    file = work / "photo-features.jsonl"
    return read_json_lines(file) if file.exists() else []
