"""CIDEr-D: n-grams weighted by how rare they are, against each reference.

Vedantam, Zitnick and Parikh 2015, as in the COCO caption evaluation (its "CIDEr" is CIDEr-D): n-grams of 1 to
4 words, clipped counts, a Gaussian penalty (sigma 6) on the length difference, times 10. The rarity of an
n-gram comes from the references of the evaluated corpus, so values are specific to a split: a subset gives
other values, and a single item always scores 0.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from train.metrics.bleu import ngrams

Tokens = Sequence[str]
NGram = tuple[str, ...]
ORDERS = 4
SIGMA = 6.0


@dataclass(frozen=True)
class Weighted:
    """A sentence: tf-idf weights and their norms, for n-grams of each order."""

    weights: list[dict[NGram, float]]
    norms: list[float]
    length: int


class CiderD:
    """CIDEr-D against the references of one corpus: `CiderD(references)`, then `score` per caption."""

    def __init__(self, references: Sequence[Sequence[Tokens]]) -> None:
        """`references`: the tokenised references of every item of the corpus."""
        documents: Counter[NGram] = Counter()
        for sentences in references:
            seen: set[NGram] = set()
            for tokens in sentences:
                for order in range(1, ORDERS + 1):
                    seen.update(ngrams(tokens, order))
            documents.update(seen)
        self.unseen = math.log(len(references))  # weight of an n-gram found in at most one item's references
        self.idf = {ngram: self.unseen - math.log(count) for ngram, count in documents.items()}

    def weigh(self, tokens: Tokens) -> Weighted:
        """tf-idf weights of a sentence."""
        weights = []
        for order in range(1, ORDERS + 1):
            counts = ngrams(tokens, order)
            weights.append({ngram: n * self.idf.get(ngram, self.unseen) for ngram, n in counts.items()})
        norms = [math.sqrt(sum(w * w for w in of_order.values())) for of_order in weights]
        return Weighted(weights, norms, max(len(tokens) - 1, 0))  # the official length counts bigrams

    def score(self, caption: Tokens, references: Sequence[Tokens]) -> float:
        """CIDEr-D in [0, 10] of one caption: the mean over references and orders, times 10."""
        own = self.weigh(caption)
        total = sum(similarity(own, self.weigh(reference)) for reference in references)
        return 10.0 * total / ORDERS / len(references)


def similarity(caption: Weighted, reference: Weighted) -> float:
    """Sum over the orders of the clipped cosine similarity, with the penalty on the difference in length."""
    total = 0.0
    for ours, theirs, our_norm, their_norm in zip(
        caption.weights, reference.weights, caption.norms, reference.norms, strict=True
    ):
        if our_norm and their_norm:
            common = ours.keys() & theirs.keys()
            dot = sum(min(ours[ngram], theirs[ngram]) * theirs[ngram] for ngram in common)
            total += dot / (our_norm * their_norm)
    return total * math.exp(-((caption.length - reference.length) ** 2) / (2 * SIGMA**2))
