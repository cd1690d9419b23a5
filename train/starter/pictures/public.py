"""Public sets of photos: Flickr8k with its human captions, and photos of the classifier's classes."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from pathlib import Path

from timm.data import ImageNetInfo

from train.data.benchmarks.files import Files
from train.data.benchmarks.flickr8k import read_captions

HELD_OUT = 400  # photos of Flickr8k for testing
EVERY = 4  # one of so many photos of classes is for testing
CLASS = re.compile(r"(n\d{8})_.+")  # WordNet id, class name


@dataclass(frozen=True)
class Photo:
    """One photo.

    Attributes:
        captions: by humans; none for a photo of a class.
        label: number of the class, or None.
    """

    path: Path
    split: str
    captions: tuple[str, ...] = ()
    label: int | None = None


def tidy(caption: str) -> str:
    """Without the spaces before commas, the full stop and the capital at the beginning."""
    text = re.sub(r"\s+", " ", caption.strip().strip('"')).rstrip(". ")
    text = re.sub(r" ([,;!?'])", r"\1", text)
    return text[:1].lower() + text[1:] if text[1:2].islower() or text[1:2] == " " else text


def flickr_photos(folder: Path | None) -> list[Photo]:
    """The photos of DIR/flickr8k that have captions; none where there is no such folder.

    Raises:
        EPALMError: a file of captions cannot be read.
    """
    if folder is None or not (folder / "flickr8k").is_dir():
        print("flickr8k: no folder of this name, so the starter learns nothing from it", flush=True)
        return []
    files = Files(folder / "flickr8k", "image")
    captions, paths = read_captions(files), {path.stem: path for path in files.all_media()}
    names = sorted(stem for (stem,) in captions if stem in paths)
    tested = set(random.Random(7).sample(names, min(HELD_OUT, len(names) // 5)))
    return [
        Photo(paths[name], "test" if name in tested else "train", tuple(map(tidy, captions[name,])))
        for name in names
    ]


def class_photos(folder: Path | None) -> list[Photo]:
    """The photos of DIR/photos800, whose names begin with a WordNet id; none without such a folder."""
    if folder is None or not (folder / "photos800").is_dir():
        print("photos800: no folder of this name, so the starter learns nothing from it", flush=True)
        return []
    number = {name: i for i, name in enumerate(ImageNetInfo().label_names())}
    found = [
        (number[match[1]], path)
        for path in Files(folder / "photos800", "image").all_media()
        if (match := CLASS.fullmatch(path.stem)) and match[1] in number
    ]
    photos = sorted(found, key=lambda each: each[0])
    return [
        Photo(path, "train" if place % EVERY else "test", label=label)
        for place, (label, path) in enumerate(photos)
    ]
