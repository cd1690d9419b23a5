"""Score predictions: a benchmark's metrics, their intervals, and comparisons."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from epalm.errors import EPALMError, reason
from train.data.benchmarks import Task
from train.data.manifest import Item
from train.metrics import ANSWER_METRICS, by_group, score_answers, score_captions
from train.metrics.bleu import BleuCounts
from train.metrics.intervals import Interval, Paired, intervals, paired
from train.results import read_predictions


@dataclass(frozen=True)
class Scores:
    """Metrics of a split as fractions, the scores of every item, and reasons for missing metrics."""

    metrics: dict[str, float]
    samples: dict[str, dict[str, float]]  # by id, then by metric
    absent: dict[str, str] = field(default_factory=dict)
    counts: tuple[BleuCounts, ...] = ()  # for captions, in the order of the samples

    def of(self, metric: str) -> dict[str, float]:
        """One metric of every item, by id; empty if it was not computed."""
        return {key: scores[metric] for key, scores in self.samples.items() if metric in scores}

    def intervals(self) -> dict[str, Interval]:
        """95 % intervals of the metrics that can be resampled; corpus METEOR cannot."""
        means = {
            metric: list(self.of(metric).values())
            for metric in self.metrics
            if not metric.startswith("BLEU") and metric != "METEOR"
        }
        return intervals(means, self.counts) if self.samples else {}


def score(task: Task, items: Sequence[Item], predictions: Mapping[str, str], java: bool) -> Scores:
    """Metrics of a benchmark's predictions; none if the split has no answers.

    Args:
        predictions: text by id, for all items.
        java: also compute the metrics that need Java.
    """
    if not any(item.answers for item in items):
        return Scores({}, {}, dict.fromkeys(task.metrics, "the split has no answers to compare with."))
    answers = {item.id: item.answers for item in items}
    if task.task == "caption":
        captions = score_captions(predictions, answers, java)
        return Scores(captions.corpus, captions.samples, captions.absent, captions.counts)
    found = {name: score_answers(predictions, answers, ANSWER_METRICS[name]) for name in task.metrics}
    samples = {key: {name: result.samples[key] for name, result in found.items()} for key in answers}
    return Scores({name: result.accuracy for name, result in found.items()}, samples)


def groups_of(items: Sequence[Item], samples: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """The mean score of every group, for each grouping of the items, such as by question type."""
    groupings = sorted({name for item in items for name in item.group})
    return {
        name: by_group(samples, {item.id: item.group[name] for item in items if name in item.group})
        for name in groupings
    }


def compare(ours: Mapping[str, float], theirs: Mapping[str, float]) -> Paired | None:
    """A paired test of two sets of scores by id; None if nothing was scored."""
    if not ours:
        return None
    return paired(list(ours.values()), [theirs[key] for key in ours])


def scores_of_run(folder: Path, ids: Sequence[str], metric: str) -> dict[str, float]:
    """The score of every item in another run's predictions.

    Raises:
        EPALMError: the run has no scored predictions for these items.
    """
    for path in sorted(folder.glob("predictions-*.jsonl")):
        try:
            found = {row["id"]: row["score"] for row in read_predictions(path)}
            name = path.name.removeprefix("predictions-").removesuffix(".jsonl")
            results = folder / f"metrics-{name}.json"
            used = json.loads(results.read_text(encoding="utf-8")).get("metric") if results.exists() else None
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise EPALMError(f"{path} is damaged ({reason(error)}): evaluate that run again.") from error
        if found.keys() == set(ids) and used in (metric, None) and None not in found.values():
            return found
    raise EPALMError(
        f"{folder} has no predictions for these {len(ids):,} items scored by {metric}: evaluate that run on "
        "the same manifest first."
    )


def in_words(metric: str, name: str, found: Paired) -> str:
    """Such as "CIDEr is 12.3 above blind [10.1, 14.6], p = 0.0001 (paired over 500 items)."."""
    low, high = (f"{100 * value:.2f}" for value in found.interval)
    side = "above" if found.difference >= 0 else "below"
    return (
        f"{metric} is {abs(100 * found.difference):.2f} {side} {name} [{low}, {high}], p = {found.p:.2g} "
        f"(paired over {found.items:,} items)."
    )


def table(
    metrics: Mapping[str, float],
    spans: Mapping[str, Interval],
    others: Mapping[str, Mapping[str, float]],
) -> str:
    """The metrics × 100 with their intervals, next to baselines and the paper's numbers."""
    lines = [["metric", "this adapter", *(["95 %"] if spans else []), *others]]
    for metric, value in metrics.items():
        line = [metric, f"{100 * value:.2f}"]
        if spans:
            span = spans.get(metric)
            line.append("" if span is None else f"[{100 * span[0]:.2f}, {100 * span[1]:.2f}]")
        values = [other.get(metric) for other in others.values()]
        lines.append([*line, *("" if other is None else f"{100 * other:.2f}" for other in values)])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
