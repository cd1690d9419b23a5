"""Exact match of answers (GQA, video questions, sounds, own data) and of sets of things (DAQUAR).

exact_match(" Two.", ["2"])                                # 1.0
set_match("scissors and a book", ["book, scissors"])       # 1.0
label_accuracy("mesh", {"net": 1.0, "mesh": 0.3})          # 0.3
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from train.metrics.vqa import normalise

BETWEEN_THINGS = re.compile(r",|;|\band\b|&")


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """1 if anybody gave the predicted answer, else 0; both sides are normalised as in VQA."""
    return label_accuracy(prediction, dict.fromkeys(answers, 1.0))


def label_accuracy(prediction: str, label: Mapping[str, float]) -> float:
    """The score that `label` gives to the predicted answer, 0 if it is not listed; both sides are normalised.

    Args:
        prediction: the model's text.
        label: accepted answers with their scores in [0, 1]; GQA and the video sets have one, of score 1.

    The normalisation is VQA's, as in the original implementation.
    """
    return {normalise(answer): score for answer, score in label.items()}.get(normalise(prediction), 0.0)


def set_match(prediction: str, answers: Sequence[str]) -> float:
    """1 if the prediction names the same things as one of the answers, in any order, else 0.

    Things are separated by commas, semicolons or "and"; each is normalised as in VQA.
    """
    return float(things(prediction) in map(things, answers))


def things(text: str) -> frozenset[str]:
    """ "a book, scissors" -> {"book", "scissors"}."""
    return frozenset(filter(None, map(normalise, BETWEEN_THINGS.split(text))))
