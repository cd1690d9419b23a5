"""Where an item's features come from: a filled cache, or the encoder on demand.

    features = feature_source(settings, config, {"train": items}, encoder)
    features(items[:16], [0] * 16)  # one (16, D_j) tensor per injected hidden state

Draw 0 is a file as evaluation sees it; draws 1, 2, … are augmented views of it (train.features.augment).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from transformers.models.timesformer.modeling_timesformer import TimesformerDropPath

from epalm.config import AdapterConfig
from epalm.encoders.base import Encoder
from epalm.encoders.timesformer import TimesformerEncoder
from epalm.errors import EPALMError
from train.data.manifest import Item
from train.features.augment import augmented, open_augmented
from train.features.cache import FeatureCache
from train.features.encoding import seed_of
from train.features.shards import content_key
from train.settings import Settings

DROP_PATH = 0.1  # of the original's TimeSformer: rises from 0 in the first layer to this in the last


class FeatureSource(Protocol):
    """Provides the features of items."""

    def __call__(self, items: Sequence[Item], draws: Sequence[int], drop_paths: bool = False) -> list[Tensor]:
        """One (B, D_j) tensor per injected hidden state.

        Args:
            draws: one per item.
            drop_paths: whether a live encoder with stochastic depth drops paths.
        Raises:
            EPALMError: a file cannot be read, or is not in the cache.
        """

    def ahead(self, items: Sequence[Item], draws: Sequence[int]) -> None:
        """Announce the next request, so that its files can be read in the meantime."""


class CachedFeatures:
    """Features from a cache filled by `python -m train features`."""

    def __init__(self, cache: FeatureCache):
        self.cache = cache

    def __call__(self, items: Sequence[Item], draws: Sequence[int], drop_paths: bool = False) -> list[Tensor]:
        return self.cache.batch([(self.cache.key(i.media), d) for i, d in zip(items, draws, strict=True)])

    def ahead(self, items: Sequence[Item], draws: Sequence[int]) -> None:
        """Do nothing: reading the cache is fast."""


class LiveFeatures:
    """Features computed on demand: threads read and transform files, then the encoder runs."""

    def __init__(self, settings: Settings, config: AdapterConfig, encoder: Encoder):
        self.encoder = encoder
        self.layers = config.encoder.feature_layers
        self.recipe, self.original = settings.recipe, settings.reference
        self.pool = ThreadPoolExecutor(settings.data.workers)
        self.key = functools.cache(content_key)  # compute a file's key once, not in every epoch
        self.reading: dict[tuple[str, int], Future[Tensor]] = {}
        self.paths: list[TimesformerDropPath] = []
        if settings.reference and isinstance(encoder, TimesformerEncoder):
            self.paths = stochastic_depth(encoder)

    def __call__(self, items: Sequence[Item], draws: Sequence[int], drop_paths: bool = False) -> list[Tensor]:
        self.ahead(items, draws)
        wanted = [(item.media, draw) for item, draw in zip(items, draws, strict=True)]
        read = {key: self.reading.pop(key) for key in dict.fromkeys(wanted)}
        media = torch.stack([read[key].result() for key in wanted])
        with dropping(self.paths if drop_paths else []):
            return self.encoder(media, self.layers)

    def ahead(self, items: Sequence[Item], draws: Sequence[int]) -> None:
        for item, draw in zip(items, draws, strict=True):
            if (key := (item.media, draw)) not in self.reading:
                self.reading[key] = self.pool.submit(self.read, item, draw)

    def read(self, item: Item, draw: int) -> Tensor:
        """The tensor of an item's file."""
        if draw == 0:
            return self.recipe(self.recipe.open(item.media))
        seed = seed_of(self.key(item.media), draw)  # the same view as in a cache
        return augmented(self.recipe, open_augmented(self.recipe, item.media, seed), seed, self.original)


def feature_source(
    settings: Settings, config: AdapterConfig, splits: Mapping[str, Sequence[Item]], encoder: Encoder | None
) -> FeatureSource:
    """The source of features for these splits; raises an EPALMError if the cache lacks some of them.

    Args:
        splits: items by name; only "train" needs augmented draws.
        encoder: used if the settings have no cache.
    """
    data = settings.data
    if data.cache is None:
        assert encoder is not None
        return LiveFeatures(settings, config, encoder)
    for split, items in splits.items():
        draws = data.draws if split == "train" else 0
        cache = FeatureCache.open(Path(data.cache), config.encoder, config.recipe, draws, settings.reference)
        if absent := cache.missing(item.media for item in items):
            raise EPALMError(
                f"The cache {data.cache} lacks the features of {len(absent)} files, such as {absent[0]}: run "
                "`python -m train features` with the same settings first, or set data.cache to null."
            )
    return CachedFeatures(cache)


# ---------------------------------------------------------------- drop paths


def stochastic_depth(encoder: TimesformerEncoder) -> list[TimesformerDropPath]:
    """Add the original's stochastic depth to a TimeSformer, switched off."""
    layers = encoder.network.encoder.layer
    rates = torch.linspace(0, DROP_PATH, len(layers)).tolist()
    for layer, rate in zip(layers, rates, strict=True):
        layer.drop_path = TimesformerDropPath(rate).eval()
    return [layer.drop_path for layer in layers]


@contextmanager
def dropping(paths: Sequence[TimesformerDropPath]) -> Iterator[None]:
    """Switch stochastic depth on inside the block, as in the original's training."""
    for path in paths:
        path.train()
    try:
        yield
    finally:
        for path in paths:
            path.eval()
