"""Exact match: GQA, and the open-ended accuracy of MSRVTT-QA and MSVD-QA.

label_accuracy(" Two.", {"2": 1.0})                     # 1.0
label_accuracy("mesh", {"net": 1.0, "mesh": 0.3})       # 0.3
"""

from __future__ import annotations

from collections.abc import Mapping

from train.metrics.vqa import normalise


def label_accuracy(prediction: str, label: Mapping[str, float]) -> float:
    """The score that `label` gives to the predicted answer, 0 if it is not listed; both sides are normalised.

    Args:
        prediction: the model's text.
        label: accepted answers with their scores in [0, 1]; GQA and the video sets have one, of score 1.

    The normalisation is VQA's, as in the original implementation.
    """
    return {normalise(answer): score for answer, score in label.items()}.get(normalise(prediction), 0.0)
