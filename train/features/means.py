"""Mean features of the training data, the baseline of explanations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from torch import Tensor

from epalm.adapter import Adapter
from epalm.errors import EPALMError


def mean_features(batches: Iterable[Sequence[Tensor]]) -> list[Tensor]:
    """The mean of every feature, in float32.

    Args:
        batches: n features (B, D_j) each, as the adapter's input; a few thousand examples are enough.
    Returns:
        n tensors (D_j).
    Raises:
        EPALMError: there are no features.
    """
    sums: list[Tensor] = []
    count = 0
    for batch in batches:
        added = [feature.double().sum(0).cpu() for feature in batch]
        sums = [a + b for a, b in zip(sums, added, strict=True)] if sums else added
        count += len(batch[0])
    if not count:
        raise EPALMError("There are no features to average; give at least one batch.")
    return [(total / count).float() for total in sums]


def store_mean_features(folder: Path, means: Sequence[Tensor]) -> None:
    """Write mean features (D_j) into an adapter folder; raises like `Adapter.load`."""
    adapter = Adapter.load(folder)
    adapter.mean_features = list(means)
    adapter.save(folder)
