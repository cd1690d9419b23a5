"""Intervals and paired tests: what they say of data whose answer is known."""

import math

import numpy as np
import pytest

from epalm.errors import EPALMError
from train.data.benchmarks import find_dataset
from train.data.manifest import Item
from train.metrics import score_captions
from train.metrics.intervals import intervals, paired
from train.scores import in_words, score, scores_of_run, table

RNG = np.random.default_rng(1)


def test_the_interval_of_a_mean_is_that_of_the_normal_distribution():
    values = (RNG.random(400) < 0.3).astype(float)
    low, high = intervals({"exact match": values})["exact match"]
    deviation = 1.96 * math.sqrt(values.mean() * (1 - values.mean()) / 400)
    assert (low, high) == pytest.approx((values.mean() - deviation, values.mean() + deviation), abs=0.006)


def test_the_interval_holds_the_truth_nineteen_times_of_twenty():
    held = 0
    for _ in range(200):
        low, high = intervals({"m": RNG.normal(0.5, 0.2, size=50)})["m"]
        held += low <= 0.5 <= high
    assert 175 <= held <= 199


def test_the_same_scores_give_the_same_interval():
    assert intervals({"m": [0.0, 1.0, 1.0]}) == intervals({"m": [0.0, 1.0, 1.0]})


def test_equal_scores_leave_no_doubt():
    assert intervals({"m": [0.5] * 9})["m"] == (0.5, 0.5)


def test_bleu_is_resampled_by_its_counts():
    predictions = {str(i): "a dog runs on the grass" if i % 2 else "two cats" for i in range(40)}
    references = {str(i): ["a dog runs on the green grass", "a brown dog"] for i in range(40)}
    scores = score(find_dataset("flickr8k"), [Item(k, "x", None, tuple(v)) for k, v in references.items()],
                   predictions, java=False)  # fmt: skip
    spans = scores.intervals()
    assert spans.keys() == {"BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr"}
    for name, (low, high) in spans.items():
        assert low <= scores.metrics[name] <= high
        assert low < high or name == "CIDEr"  # whose words are in every item here: no weight
    assert scores.metrics == score_captions(predictions, references, java=False).corpus


def test_a_difference_is_found_where_there_is_one():
    theirs = RNG.normal(0.5, 0.3, size=200)
    found = paired(theirs + RNG.normal(0.1, 0.1, size=200), theirs)
    assert found.difference == pytest.approx(0.1, abs=0.03) and found.p < 0.001
    assert found.interval[0] > 0 and found.items == 200


def test_p_is_even_where_there_is_none():
    values = [paired(RNG.normal(size=30), RNG.normal(size=30)).p for _ in range(200)]
    assert np.mean([p < 0.05 for p in values]) < 0.12
    assert np.mean(values) == pytest.approx(0.5, abs=0.08)


def test_the_same_result_twice_is_no_difference():
    found = paired([1.0, 0.0], [1.0, 0.0])
    assert (found.difference, found.interval, found.p) == (0.0, (0.0, 0.0), 1.0)
    assert in_words("CIDEr", "blind", found) == (
        "CIDEr is 0.00 above blind [0.00, 0.00], p = 1 (paired over 2 items)."
    )


def test_the_table_has_intervals_beside_the_values():
    text = table({"CIDEr": 0.5, "METEOR": 0.2}, {"CIDEr": (0.4, 0.6)}, {"blind": {"CIDEr": 0.1}})
    assert text.splitlines() == [
        "metric  this adapter  95 %            blind",
        "CIDEr   50.00         [40.00, 60.00]  10.00",
        "METEOR  20.00",
    ]


def test_a_run_without_these_items_is_not_compared(tmp_path):
    with pytest.raises(EPALMError, match="has no predictions for these 2 items scored by CIDEr"):
        scores_of_run(tmp_path, ["1", "2"], "CIDEr")
    (tmp_path / "predictions-test.jsonl").write_text('{"id": "1", "sco\n{"id": "2", "score": 0}\n')
    with pytest.raises(EPALMError, match="predictions-test.jsonl is damaged"):
        scores_of_run(tmp_path, ["1", "2"], "CIDEr")
    (tmp_path / "predictions-test.jsonl").write_text('{"id": "1", "score": 0.5}\n{"id": "2", "score": 0}\n')
    assert scores_of_run(tmp_path, ["1", "2"], "CIDEr") == {"1": 0.5, "2": 0}
    (tmp_path / "metrics-test.json").write_text('{"metric": "exact match"}')
    with pytest.raises(EPALMError, match="scored by CIDEr"):
        scores_of_run(tmp_path, ["1", "2"], "CIDEr")
