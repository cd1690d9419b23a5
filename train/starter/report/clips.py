"""Held-out photos filmed by a camera that stands still, pans or zooms."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from torch import Tensor

from epalm.media.video import Clip
from epalm.model import EPALM
from train.starter.clips.photos import CAMERAS, film, open_photo
from train.starter.pictures.public import Photo, class_photos, flickr_photos
from train.starter.report.baselines import nearest
from train.starter.report.features import Opener, say
from train.starter.report.images import POOLED, cider, divided, moved, naming_rows, paths
from train.starter.report.table import Row

SEEN, PROBABILITIES = 0, 2  # features of the frames' encoder
MOST = 200  # clips of each set


def filmed(photos: Sequence[Photo], number: int) -> Clip:
    """The clip of a photo; the cameras take turns."""
    camera, rng = CAMERAS[number % len(CAMERAS)], random.Random(f"report/{number}")
    return film(open_photo(photos[number].path), camera, rng)


def clip_rows(model: EPALM, public: Path, opener: Opener, stills: Opener) -> tuple[list[Row], list[str]]:
    """Clips of photos of classes, and of Flickr8k's.

    Args:
        opener: of clips; stills: of photos, among which the most similar ones are looked for.
    """
    rows: list[Row] = []
    captions: list[str] = []
    for name, photos in (("class", class_photos(public)), ("flickr8k", flickr_photos(public))):
        train, test = divided(photos)
        if not test:
            continue
        test = test[:: max(1, len(test) // MOST)][:MOST]
        features = opener.features(f"{name}-clips", paths(test), partial(filmed, test))
        texts = say(model, "video-caption", features, range(len(test)), [None] * len(test))
        captions += texts
        near = nearest_photos(features[SEEN], stills, name, train, test)
        if name == "class":
            title = "clips of photos, one a class: caption"
            rows += naming_rows(title, texts, test, features[PROBABILITIES], near)
        else:
            people = [photo.captions for photo in test]
            rows.append(
                Row(
                    "clips of Flickr8k's photos, CIDEr × 100",
                    cider(texts, people),
                    cider(moved(texts), people),
                    near=cider([photo.captions[0] for photo in near], people),
                    unit="",
                )
            )
    return rows, captions


def nearest_photos(
    seen: Tensor, stills: Opener, name: str, train: Sequence[Photo], test: Sequence[Photo]
) -> list[Photo]:
    """The photo of training that looks most like each clip. Both have zero mean, as frames are smaller."""
    stem = "class-photos" if name == "class" else "flickr8k"
    photos = stills.features(f"{stem}-train", paths(train))[POOLED].float()
    mean, std = photos.mean(0), photos.std(0).clamp(min=1e-3)
    shown = (seen.float() - seen.float().mean(0)) / seen.float().std(0).clamp(min=1e-3)
    return [train[i] for i in nearest((photos - mean) / std, shown)]
