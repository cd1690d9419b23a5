"""The door "a new metric" of CONTRIBUTING.md opens."""

from dataclasses import replace

from tests.helpers.contributing import run_door
from train import metrics
from train.data.benchmarks import find_dataset
from train.data.manifest import Item
from train.scores import score


def test_the_example_of_a_new_metric_scores_a_benchmark(monkeypatch):
    monkeypatch.setitem(metrics.ANSWER_METRICS, "first word", run_door("A new metric")["first_word"])
    task = replace(find_dataset("gqa"), metrics=("exact match", "first word"))
    items = [Item("1", "a.jpg", "what?", ("red bus",)), Item("2", "b.jpg", "what?", ("dog",))]
    scores = score(task, items, {"1": "A red car.", "2": ""}, java=False)
    assert scores.metrics == {"exact match": 0.0, "first word": 0.5}
