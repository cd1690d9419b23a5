"""BLEU-1..4 of a corpus, with the reference length closest to each caption.

Papineni et al. 2002, as in the COCO caption evaluation: the geometric mean of modified n-gram precisions, one
brevity penalty for the whole corpus, and tiny constants instead of smoothing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

Tokens = Sequence[str]
ORDERS = 4
TINY, SMALL = 1e-15, 1e-9  # captions without a matching n-gram, or shorter than n, score about 0


def ngrams(tokens: Tokens, order: int) -> Counter[tuple[str, ...]]:
    """How often each run of `order` tokens occurs."""
    return Counter(zip(*(tokens[start:] for start in range(order)), strict=False))


@dataclass(frozen=True)
class BleuCounts:
    """The contribution of one caption to the corpus."""

    matched: tuple[int, ...]  # n-grams of order 1..4 that also occur in a reference, clipped to its count
    guessed: tuple[int, ...]  # n-grams of order 1..4 in the caption
    length: int
    reference_length: int


def bleu_counts(caption: Tokens, references: Sequence[Tokens]) -> BleuCounts:
    """Counts of one caption; of two equally close reference lengths the shorter one counts."""
    matched = []
    for order in range(1, ORDERS + 1):
        allowed: Counter[tuple[str, ...]] = Counter()
        for reference in references:
            allowed |= ngrams(reference, order)
        matched.append((ngrams(caption, order) & allowed).total())
    guessed = tuple(max(0, len(caption) - order) for order in range(ORDERS))
    closest = min((len(reference) for reference in references), key=lambda n: (abs(n - len(caption)), n))
    return BleuCounts(tuple(matched), guessed, len(caption), closest)


def add(counts: Sequence[BleuCounts]) -> BleuCounts:
    """Sum the counts of a corpus."""
    return BleuCounts(
        tuple(map(sum, zip(*(c.matched for c in counts), strict=True))),
        tuple(map(sum, zip(*(c.guessed for c in counts), strict=True))),
        sum(c.length for c in counts),
        sum(c.reference_length for c in counts),
    )


def bleu(counts: BleuCounts) -> tuple[float, ...]:
    """BLEU-1 to BLEU-4 in [0, 1], from the counts of one caption or of a corpus (`add`)."""
    ratio = (counts.length + TINY) / (counts.reference_length + SMALL)
    brevity = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    product, scores = 1.0, []
    for order, (matched, guessed) in enumerate(zip(counts.matched, counts.guessed, strict=True), start=1):
        product *= (matched + TINY) / (guessed + SMALL)
        scores.append(brevity * product ** (1 / order))
    return tuple(scores)
