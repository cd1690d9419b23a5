"""The confidence of an answer: what is said is what is true, on answers that were not fitted to."""

import dataclasses
import math

import numpy as np
import pytest
from PIL import Image

from epalm.adapter import Adapter
from epalm.config import AdapterConfig, ConfidenceConfig
from epalm.errors import EPALMError
from train.calibration import (
    calibration_error,
    fit_confidence,
    reliability,
    reliability_table,
    store_confidence,
)
from train.reports.figures import chart
from train.reports.reliability import reliability_diagram

TRUE = ConfidenceConfig(slope=1.7, offset=1.2)


def answers(count: int, seed: int) -> tuple[list[float], list[bool]]:
    """Log-probabilities, and answers that are right as often as `TRUE` says."""
    rng = np.random.default_rng(seed)
    log_probabilities = -rng.exponential(1.0, count)
    right = [bool(rng.random() < TRUE.of(value)) for value in log_probabilities]
    return log_probabilities.tolist(), right


def test_a_confidence_is_a_share():
    assert ConfidenceConfig(2.0, 1.0).of(-0.5) == pytest.approx(0.5)
    assert ConfidenceConfig(2.0, 1.0).of(-1.0) == pytest.approx(1 / (1 + math.e))
    assert ConfidenceConfig(1.0, 0.0).of(-1e6) == 0.0
    assert ConfidenceConfig(1.0, 0.0).of(1e6) == 1.0


def test_the_fit_finds_the_slope_and_the_offset_of_the_answers():
    fitted = fit_confidence(*answers(20_000, seed=0))
    assert fitted.slope == pytest.approx(TRUE.slope, abs=0.1)
    assert fitted.offset == pytest.approx(TRUE.offset, abs=0.1)


def test_on_other_answers_what_is_said_is_what_is_true():
    fitted = fit_confidence(*answers(2_000, seed=1))
    bins = reliability(fitted, *answers(20_000, seed=2))
    assert sum(b.count for b in bins) == 20_000
    assert all(b.low <= b.confidence <= b.high for b in bins if b.count)
    assert calibration_error(bins) < 0.03
    overconfident = reliability(ConfidenceConfig(0.0, 4.0), *answers(20_000, seed=2))
    assert calibration_error(overconfident) > 0.2


def test_answers_that_are_told_apart_without_a_mistake_give_a_finite_slope():
    fitted = fit_confidence([-0.1] * 50 + [-3.0] * 50, [True] * 50 + [False] * 50)
    assert 0 < fitted.slope < 100
    assert fitted.of(-0.1) > 0.9 > 0.1 > fitted.of(-3.0)


def test_the_table_leaves_empty_bins_out():
    table = reliability_table(reliability(ConfidenceConfig(0.0, 0.0), [-1.0, -2.0], [True, False], bins=4))
    assert table.splitlines()[2:4] == ["| 50% to 75% | 2 | 50% | 50% |", ""]
    assert "calibration error: 0.000" in table


def test_the_diagram_is_written(tmp_path):
    bins = reliability(TRUE, *answers(500, seed=3))
    chart(reliability_diagram({"pictures": bins, "sounds": bins}), tmp_path / "reliability.png")
    assert Image.open(tmp_path / "reliability.png").width > 300


def test_a_confidence_is_stored_with_the_adapter(tiny_model_dir, tmp_path):
    Adapter.load(tiny_model_dir / "image-qa").save(tmp_path)
    before = AdapterConfig.load(tmp_path / "config.json")
    assert before.confidence is None
    store_confidence(tmp_path, TRUE)
    assert AdapterConfig.load(tmp_path / "config.json") == dataclasses.replace(before, confidence=TRUE)


def test_what_cannot_be_fitted_is_refused():
    with pytest.raises(EPALMError, match="all 2 are right"):
        fit_confidence([-1.0, -2.0], [True, True])
    with pytest.raises(EPALMError, match="2 log-probabilities but 1 values of `right`"):
        fit_confidence([-1.0, -2.0], [True])
