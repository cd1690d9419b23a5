"""ROUGE-L: the longest common subsequence of words of a caption and its references.

Lin 2004, as in the COCO caption evaluation: the best precision and the best recall over all references, taken
separately and combined with beta 1.2. The corpus value is the mean over captions.
"""

from __future__ import annotations

from collections.abc import Sequence

Tokens = Sequence[str]
BETA = 1.2  # weight of recall against precision


def lcs_length(a: Tokens, b: Tokens) -> int:
    """Length of the longest common subsequence.

    Bit i of `row` is 0 where the dynamic-programming row for the words of `b` so far increases at word i of
    `a`; one addition of long integers updates the whole row (Hyyrö 2004).
    """
    places: dict[str, int] = {}
    for i, word in enumerate(a):
        places[word] = places.get(word, 0) | 1 << i
    full = (1 << len(a)) - 1
    row = full
    for word in b:
        steps = row & places.get(word, 0)
        row = ((row + steps) | (row - steps)) & full
    return len(a) - row.bit_count()


def rouge_l(caption: Tokens, references: Sequence[Tokens]) -> float:
    """ROUGE-L in [0, 1] of one caption; 0 for an empty one."""
    common = [lcs_length(reference, caption) for reference in references]
    if not any(common):
        return 0.0
    precision = max(common) / len(caption)
    recall = max(n / max(len(reference), 1) for n, reference in zip(common, references, strict=True))
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)
