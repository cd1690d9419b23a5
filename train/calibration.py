"""Calibrated confidence: how often an adapter is right, given its answers' log-probabilities.

    confidence = fit_confidence(log_probabilities, right)  # on held-out files
    store_confidence(Path("runs/mine/best"), confidence)
    print(reliability_table(reliability(confidence, log_probabilities, right)))

The confidence of an answer is the logistic function of `slope` times its mean log-probability per token plus
`offset` (Platt 1999). Fit it on files that the adapter was not trained on, and check its reliability on yet
other files.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from epalm.adapter import CONFIG
from epalm.config import AdapterConfig, ConfidenceConfig
from epalm.errors import EPALMError
from epalm.files import write_atomic

STEPS = 100  # of Newton's method; it needs about ten


def fit_confidence(log_probabilities: Sequence[float], right: Sequence[bool]) -> ConfidenceConfig:
    """Fit slope and offset by maximum likelihood.

    As in Platt's method, the targets are slightly inside 0…1, so that perfectly separable answers do not make
    the slope infinite.

    Args:
        log_probabilities: mean per token of each answer, in nats (`Answer.log_probability`).
        right: whether each answer was right.
    Raises:
        EPALMError: the lengths differ, or there is no right or no wrong answer to learn from.
    """
    x, good = _checked(log_probabilities, right)
    hits, misses = int(good.sum()), int((~good).sum())
    if not hits or not misses:
        raise EPALMError(
            f"A confidence needs both right and wrong answers, but all {len(x)} are "
            f"{'right' if hits else 'wrong'}: use more files."
        )
    targets = np.where(good, (hits + 1) / (hits + 2), 1 / (misses + 2))
    design = np.stack([x, np.ones_like(x)], axis=1)  # (N, 2)
    weights = np.array([0.0, np.log((hits + 1) / (misses + 1))])
    loss = _cross_entropy(design @ weights, targets)
    for _ in range(STEPS):
        predicted = _logistic(design @ weights)
        gradient = design.T @ (predicted - targets)
        curvature = (design * (predicted * (1 - predicted))[:, None]).T @ design + 1e-9 * np.eye(2)
        step, size = np.linalg.solve(curvature, gradient), 1.0
        while (shorter := _cross_entropy(design @ (weights - size * step), targets)) > loss and size > 1e-10:
            size /= 2
        weights, gained, loss = weights - size * step, loss - shorter, shorter
        if gained < 1e-10 * len(x):
            break
    return ConfidenceConfig(slope=float(weights[0]), offset=float(weights[1]))


@dataclasses.dataclass(frozen=True)
class Bin:
    """The answers whose confidence is in `low`…`high`."""

    low: float
    high: float
    count: int
    confidence: float  # mean; NaN if there are none
    right: float  # share that was right; NaN if there are none


def reliability(
    confidence: ConfidenceConfig, log_probabilities: Sequence[float], right: Sequence[bool], bins: int = 10
) -> list[Bin]:
    """Predicted and true accuracy in bins of equal width; raises like `fit_confidence`."""
    x, good = _checked(log_probabilities, right)
    said = np.array([confidence.of(value) for value in x])
    places = np.minimum((said * bins).astype(int), bins - 1)
    found = []
    for b in range(bins):
        here = places == b
        count = int(here.sum())
        means = (float(said[here].mean()), float(good[here].mean())) if count else (np.nan, np.nan)
        found.append(Bin(b / bins, (b + 1) / bins, count, *means))
    return found


def calibration_error(bins: Sequence[Bin]) -> float:
    """Expected calibration error: the gap between confidence and accuracy, averaged over answers."""
    total = sum(b.count for b in bins)
    return sum(b.count * abs(b.confidence - b.right) for b in bins if b.count) / total if total else np.nan


def reliability_table(bins: Sequence[Bin]) -> str:
    """A Markdown table of the bins that have answers, and the expected calibration error."""
    lines = ["| confidence | answers | said | right |", "|---|---|---|---|"]
    lines += [
        f"| {b.low:.0%} to {b.high:.0%} | {b.count} | {b.confidence:.0%} | {b.right:.0%} |"
        for b in bins
        if b.count
    ]
    return "\n".join(lines) + f"\n\nExpected calibration error: {calibration_error(bins):.3f}\n"


def store_confidence(folder: Path, confidence: ConfidenceConfig) -> None:
    """Write a confidence into an adapter folder's config.json; raises like `AdapterConfig.load`."""
    config = AdapterConfig.load(folder / CONFIG)
    changed = dataclasses.replace(config, confidence=confidence)
    write_atomic(folder / CONFIG, [changed.to_json()])


def _checked(log_probabilities: Sequence[float], right: Sequence[bool]) -> tuple[np.ndarray, np.ndarray]:
    if len(log_probabilities) != len(right):
        raise EPALMError(
            f"There are {len(log_probabilities)} log-probabilities but {len(right)} values of `right`: give "
            "one of each per answer."
        )
    return np.asarray(log_probabilities, dtype=float), np.asarray(right, dtype=bool)


def _logistic(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values.clip(-500, 500)))


def _cross_entropy(logits: np.ndarray, targets: np.ndarray) -> float:
    return float((np.logaddexp(0, logits) - targets * logits).sum())
