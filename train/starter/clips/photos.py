"""Photos as clips: still, panned over or zoomed into, with what people wrote about them or their class.

A video of the world shows scenes, and the camera moves more often than a single thing does.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from epalm.encoders.frames import FRAMES
from epalm.media.video import Clip
from train.starter.pictures.public import Photo

CAMERAS = ("still", "pan", "zoom")  # equally frequent
SIDE = 192  # pixels of a frame
PART = 0.6, 1.0  # of the photo's sides that a frame shows
SHAKE = 0.01  # of the sides: how far a hand moves at most
SECONDS = 4.0
TIMES = {"class": 2, "scene": 1}  # clips of a photo of a class, or of one with captions


def plan_clips(photos: list[Photo]) -> list[dict[str, Any]]:
    """The lines of photo-clips.jsonl: {"photo", "camera", "captions", "class", "split"}."""
    shown = [photo for photo in photos for _ in range(TIMES["scene" if photo.captions else "class"])]
    return [
        {
            "photo": str(photo.path),
            "camera": CAMERAS[i % len(CAMERAS)],
            "captions": list(photo.captions),
            "class": photo.label,
            "split": photo.split,
        }
        for i, photo in enumerate(shown)
    ]


def film(photo: Image.Image, camera: str, rng: random.Random) -> Clip:
    """Frames of a camera that sees a part of a photo."""

    def part() -> tuple[float, float, float]:
        size = rng.uniform(*PART)
        return (
            rng.uniform(0, 1 - size),
            rng.uniform(0, 1 - size),
            size,
        )  # left, top, side; shares of the photo's

    first = last = part()
    if camera == "zoom":
        last = part()
    elif camera == "pan":
        size = first[2]
        last = rng.uniform(0, 1 - size), rng.uniform(0, 1 - size), size
    shake = rng.uniform(0, SHAKE)
    frames = []
    for t in np.linspace(0, 1, FRAMES):
        left, top, size = (a + (b - a) * t for a, b in zip(first, last, strict=True))
        left, top = (min(max(0, at + rng.uniform(-shake, shake)), 1 - size) for at in (left, top))
        box = (
            left * photo.width,
            top * photo.height,
            (left + size) * photo.width,
            (top + size) * photo.height,
        )
        frames.append(np.asarray(photo.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box)))
    times = np.linspace(0, SECONDS, FRAMES)
    return Clip(np.stack(frames), tuple(times.tolist()), SECONDS)


def open_photo(path: Path) -> Image.Image:
    """In colour, decoded at about twice the size that a frame shows."""
    photo = Image.open(path)
    photo.draft("RGB", (2 * SIDE, 2 * SIDE))
    return photo.convert("RGB")
