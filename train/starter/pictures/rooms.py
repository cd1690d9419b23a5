"""Rooms are not to be learned by heart: what tells one room from all others is exchanged for another's.

There are few rooms and many questions about each, so an adapter can answer them by recognising the room. What
the answers of other rooms share with them lies in the few directions in which rooms differ most; the other
thousands store the training's rooms (`train/studies/from-encoder-to-words.md` measures both).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

SHARED = 32  # directions that are a room's own
EXCHANGED = 0.9  # how often the others are another room's
STRANGE = 0.15  # how often all are: then only the question's words tell
SPREAD = 0.3  # of the own directions, in standard deviations of the rooms: what is added to them


class RoomDirections:
    """The principal components of the rooms' standardised features, all layers side by side.

    Args:
        features: {layer: (R, D)} of R rooms.
    """

    def __init__(self, features: Mapping[int, Tensor]):
        self.layers = sorted(features)
        rooms = self._joined(features)
        self.mean = rooms.mean(0)
        count = min(SHARED, *rooms.shape)
        with torch.random.fork_rng(devices=[]):  # the search begins at random
            torch.manual_seed(0)
            _, sizes, components = torch.pca_lowrank(rooms - self.mean, q=count, center=False, niter=4)
        self.components = components  # (D, SHARED)
        self.spread = sizes / len(rooms) ** 0.5

    def _joined(self, features: Mapping[int, Tensor]) -> Tensor:
        return torch.cat([features[layer] for layer in self.layers], dim=1)

    def exchanged(
        self, features: Mapping[int, Tensor], rooms: Sequence[int], generator: torch.Generator
    ) -> dict[int, Tensor]:
        """The same, with what tells the rooms of a batch apart exchanged among them.

        Args:
            features: {layer: (B, D)} standardised.
            rooms: which rows are rooms; the others stay as they are.
        """
        rows = torch.tensor(rooms, dtype=torch.long)
        own = self._joined(features)[rows]
        others = own[torch.randperm(len(rows), generator=generator)]
        chance = torch.rand(len(rows), 2, generator=generator)
        shared = (own - self.mean) @ self.components
        shared = shared + SPREAD * self.spread * torch.randn(shared.shape, generator=generator)
        rest = torch.where(chance[:, :1] < EXCHANGED, others, own) - self.mean
        rest = rest - rest @ self.components @ self.components.T
        mixed = self.mean + shared @ self.components.T + rest
        mixed = torch.where(chance[:, 1:] < STRANGE, others, mixed)
        sizes = [features[layer].shape[1] for layer in self.layers]
        parts = mixed.split(sizes, dim=1)
        return {
            layer: features[layer].index_copy(0, rows, part)
            for layer, part in zip(self.layers, parts, strict=True)
        }
