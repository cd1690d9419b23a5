"""The frozen image encoder's features of all clips: the starter trains on these.

Tensors of a file (N clips in the order of clips.jsonl, or of photo-clips.jsonl):
    frames    (N, 8, 1280) float16   the pooled feature of every frame
    changes   (N, 175) float32       what changes between them, see epalm.encoders.frames
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from epalm.encoders.frames import FrameEncoder
from epalm.encoders.load import load_encoder
from epalm.files import atomic, read_json_lines, write_json_lines
from epalm.media.recipes import RECIPES
from train.starter.clips.photos import film, open_photo, plan_clips
from train.starter.pictures.public import class_photos, flickr_photos
from train.starter.scale import FULL, Scale

ENCODER = "frames/starter/efficientnet-lite2"


def encode_clips(work: Path) -> None:
    """WORK/clips.jsonl -> WORK/clips.safetensors, from the clips' files."""
    rows, recipe = read_json_lines(work / "clips.jsonl"), RECIPES["video"]["starter"]
    encode((recipe(recipe.open(work / row["path"])) for row in rows), work / "clips.safetensors")


def encode_photo_clips(work: Path, public: Path | None, seed: int = 0, scale: Scale = FULL) -> None:
    """Public sets of photos -> WORK/photo-clips.jsonl and WORK/photo-clips.safetensors."""
    photos = [*flickr_photos(public), *class_photos(public)]
    photos = scale.part(photos, lambda photo: (bool(photo.captions), photo.split))
    rows, recipe = plan_clips(photos), RECIPES["video"]["starter"]

    def media() -> Iterable[Tensor]:
        for i, row in enumerate(rows):
            yield recipe(film(open_photo(Path(row["photo"])), row["camera"], random.Random(f"{seed}/{i}")))

    if rows:
        encode(media(), work / "photo-clips.safetensors")
    write_json_lines(work / "photo-clips.jsonl", rows)


@torch.no_grad()
def encode(media: Iterable[Tensor], file: Path) -> None:
    """Clips (3, 8, H, W) as the recipe makes them -> a file of features."""
    encoder = load_encoder(ENCODER, progress=print)
    assert isinstance(encoder, FrameEncoder)
    pooled, changes = [], []
    for clip in media:
        frames, change = encoder.look(clip)
        pooled.append(frames.half())
        changes.append(change)
        if len(pooled) % 200 == 0:
            print(f"{len(pooled)} clips", flush=True)
    with atomic(file) as out:
        out.write(save({"frames": torch.stack(pooled), "changes": torch.stack(changes)}))
