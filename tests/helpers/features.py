"""A tiny encoder, pictures of noise, and a cache of their features."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from epalm.config import EncoderConfig
from epalm.encoders.base import Encoder
from epalm.media.recipes import RECIPES
from train.data.manifest import Item
from train.features.cache import FeatureCache
from train.features.encoding import encode_manifest

RECIPE = replace(RECIPES["image"]["starter"], size=32).to_dict()
CONFIG = EncoderConfig("tiny", (-2, -1, -1), (6, 4, 4))


class Tiny(Encoder):
    """Three layers of random features; counts what it sees."""

    modality = "image"

    def __init__(self, seed: int = 0):
        torch.manual_seed(seed)
        network = torch.nn.ModuleList(torch.nn.Linear(3 * 32 * 32, width) for width in (5, 6, 4))
        super().__init__(network, (5, 6, 4))
        self.seen = 0

    def features(self, media, deepest):
        self.seen += len(media)
        return [layer(media.flatten(1)) for layer in self.network]


def pictures(folder: Path, count: int, first: int = 0) -> list[Item]:
    """Different pictures of noise."""
    folder.mkdir(parents=True, exist_ok=True)
    items = []
    for i in range(first, first + count):
        pixels = np.random.default_rng(i).integers(0, 256, (24, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        items.append(item(folder / f"{i}.png"))
    return items


def item(path: Path) -> Item:
    return Item(path.name, str(path), None, ())


def opened(folder: Path, draws: int = 0, encoder=CONFIG, recipe=RECIPE, **options) -> FeatureCache:
    return FeatureCache.open(folder, encoder, recipe, draws, **options)


def fill(folder: Path, items: list[Item], draws: int = 0, encoder: Encoder | None = None, **options):
    """The report, the opened cache and everything that was said."""
    said: list[str] = []
    cache = opened(folder, draws, reference=options.pop("reference", False))
    options = {"batch": 2, "workers": 2, "say": said.append, "progress": False} | options
    return encode_manifest(items, cache, encoder or Tiny(), **options), opened(folder, draws), said


def contents(folder: Path) -> dict[str, bytes]:
    """All files but the empty locks."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}
