"""How sure a result is: bootstrap intervals over the items, and a paired test of two results.

    intervals({"CIDEr": [0.5, 1.2, 0.9]})              # {"CIDEr": (0.5, 1.2)}
    paired([1.0, 0.0, 1.0], [0.0, 0.0, 1.0])           # difference 0.33, its interval, p

Items are resampled with replacement a thousand times; the interval covers the middle 95 % of the values.
Questions about one picture are treated as independent, so intervals are too narrow if a picture has many.
CIDEr keeps the word weights of the whole split.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from train.metrics.bleu import ORDERS, BleuCounts, bleu

ROUNDS = 1000
FLIPS = 10_000  # random sign flips in a test; fewer for very many items
MOST = 200_000_000  # most random numbers in a test
LEVEL = 0.95
SEED = 0

Interval = tuple[float, float]


@dataclass(frozen=True)
class Paired:
    """Two results on the same items.

    Attributes:
        difference: difference of the means; positive if the first result is better.
        interval: 95 % interval of the difference.
        p: probability of a difference at least this large by chance, if both are equally good.
    """

    difference: float
    interval: Interval
    p: float
    items: int


def intervals(
    samples: Mapping[str, Sequence[float]], counts: Sequence[BleuCounts] = ()
) -> dict[str, Interval]:
    """Intervals of metrics whose corpus value is the mean of their samples, and of BLEU.

    Args:
        samples: metric -> the score of every item.
        counts: for the same items, for BLEU.
    """
    columns = [list(values) for values in samples.values()]
    if counts:
        columns += [[c.matched[n] for c in counts] for n in range(ORDERS)]
        columns += [[c.guessed[n] for c in counts] for n in range(ORDERS)]
        columns += [[c.length for c in counts], [c.reference_length for c in counts]]
    if not columns:
        return {}
    sums = resampled(np.array(columns, dtype=np.float64))  # (rounds, columns)
    items = len(columns[0])
    found = {
        name: middle(sums[:, number] / items)
        for number, name in enumerate(samples)
        if np.isfinite(sums[:, number]).all()
    }
    if counts:
        rows = sums[:, len(samples) :]
        values = np.array([bleu(as_counts(row)) for row in rows.tolist()])
        found |= {f"BLEU-{n + 1}": middle(values[:, n]) for n in range(ORDERS)}
    return found


def as_counts(row: Sequence[float]) -> BleuCounts:
    """The counts of a resampled corpus from their sums."""
    whole = [round(value) for value in row]
    matched, guessed, lengths = whole[:ORDERS], whole[ORDERS : 2 * ORDERS], whole[2 * ORDERS :]
    return BleuCounts(tuple(matched), tuple(guessed), *lengths)


def resampled(columns: np.ndarray, rounds: int = ROUNDS) -> np.ndarray:
    """Sums of (columns, items) over items resampled with replacement: (rounds, columns)."""
    rng, items = np.random.default_rng(SEED), columns.shape[1]
    sums = np.empty((rounds, len(columns)))
    for number in range(rounds):
        sums[number] = columns @ np.bincount(rng.integers(items, size=items), minlength=items)
    return sums


def middle(values: np.ndarray) -> Interval:
    """The interval that covers the middle `LEVEL` of values."""
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def paired(ours: Sequence[float], theirs: Sequence[float]) -> Paired:
    """Compare two results on the same items: bootstrap of the difference, and a sign-flip permutation test.

    If both were equally good, each item's difference could as well have the other sign; p is the share of
    random flips (including the observed signs) whose mean is at least as far from 0.
    """
    difference = np.asarray(ours, dtype=np.float64) - np.asarray(theirs, dtype=np.float64)
    found = float(difference.mean())
    unequal = difference[difference != 0]
    flips = FLIPS if not len(unequal) else max(100, min(FLIPS, MOST // len(unequal)))
    rng, extreme = np.random.default_rng(SEED), 0
    for _ in range(flips):
        signs = rng.integers(2, size=len(unequal), dtype=np.int8) * 2 - 1
        extreme += abs(float(signs @ unequal)) >= abs(float(unequal.sum())) - 1e-9
    return Paired(
        difference=found,
        interval=middle(resampled(difference[None])[:, 0] / len(difference)),
        p=(1 + extreme) / (1 + flips),
        items=len(difference),
    )
