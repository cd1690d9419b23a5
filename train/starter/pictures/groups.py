"""What the batches of the starter's image adapters are made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from epalm.config import FeatureLayer


@dataclass(frozen=True)
class Shown:
    """A picture.

    Attributes:
        views: rows of the features; the first is the picture as it is used later.
        row: of the manifest, photo-features.jsonl or composed.jsonl.
    """

    views: range
    row: dict[str, Any]


@dataclass
class Group:
    """Pictures that are drawn together, and how often each."""

    pictures: list[Shown] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)

    def add(self, picture: Shown, weight: float = 1.0) -> None:
        self.pictures.append(picture)
        self.weights.append(weight)


@dataclass(frozen=True)
class Mixture:
    """What batches are made of.

    Attributes:
        shares: of each group, and of draws.
        layers: of the encoder, of which each token is made.
        dropped: how often the pooled feature of a thing, and its stages, are not seen.
    """

    shares: dict[str, float]
    layers: tuple[FeatureLayer, ...]
    dropped: float
