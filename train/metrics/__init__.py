"""Metrics of the benchmarks: every sample is scored on its own, then the corpus.

    scores = score_captions({"7": "a dog runs"}, {"7": ["a dog is running", "a brown dog"]})
    scores.corpus["CIDEr"], scores.samples["7"]["ROUGE-L"]

    scores = score_vqa({"42": "Two."}, {"42": ["2"] * 9 + ["3"]})
    scores.accuracy, scores.samples["42"], by_group(scores.samples, {"42": "how many"})

All values are fractions as pycocoevalcap gives them; papers print them times 100 (a CIDEr of 1.13 as 113).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from epalm.errors import EPALMError
from train.metrics.bleu import ORDERS, add, bleu, bleu_counts
from train.metrics.cider import CiderD
from train.metrics.exact import label_accuracy
from train.metrics.java import Unavailable, meteor, spice
from train.metrics.rouge import rouge_l
from train.metrics.tokenizer import tokenize
from train.metrics.vqa import vqa_accuracy

__all__ = ["AnswerScores", "CaptionScores", "by_group", "score_captions", "score_labels", "score_vqa"]

T = TypeVar("T")
BLEUS = tuple(f"BLEU-{order}" for order in range(1, ORDERS + 1))


@dataclass(frozen=True)
class CaptionScores:
    """Caption metrics: BLEU-1..4, ROUGE-L, CIDEr (CIDEr-D), and METEOR and SPICE where they can run."""

    corpus: dict[str, float]  # by metric; BLEU and METEOR are not the mean of their samples
    samples: dict[str, dict[str, float]]  # by id, then by metric
    absent: dict[str, str] = field(default_factory=dict)  # metric -> one sentence why it is missing


@dataclass(frozen=True)
class AnswerScores:
    """Accuracy of answers, in [0, 1]."""

    accuracy: float
    samples: dict[str, float]  # by id


def by_group(samples: Mapping[str, float], groups: Mapping[str, str]) -> dict[str, float]:
    """Mean score per group, e.g. with `groups` = the question type or answer type by id."""
    members: dict[str, list[float]] = {}
    for key, group in groups.items():
        members.setdefault(group, []).append(samples[key])
    return {group: mean(scores) for group, scores in members.items()}


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def check(predictions: Mapping[str, str], truths: Mapping[str, object], truth: str) -> None:
    """Refuse ids that are on one side only, and items without anything to compare with."""
    if not truths:
        raise EPALMError("There is nothing to score: the split is empty.")
    for have, want, name in ((predictions, truths, "prediction"), (truths, predictions, truth)):
        missing = [key for key in want if key not in have]
        if missing:
            raise EPALMError(
                f"{len(missing)} of {len(want)} items have no {name}, for example {missing[0]!r}."
            )
    empty = [key for key, value in truths.items() if not value]
    if empty:
        raise EPALMError(
            f"{len(empty)} of {len(truths)} items have an empty {truth}, for example {empty[0]!r}."
        )


def score_captions(
    predictions: Mapping[str, str], references: Mapping[str, Sequence[str]], java: bool = True
) -> CaptionScores:
    """Caption metrics over a whole split.

    Args:
        predictions: caption by id, as the model wrote it (an empty one scores 0).
        references: at least one human caption by id, as written; the same ids.
        java: also METEOR and SPICE, which start a Java program each (METEOR takes ten seconds to start).

    Raises:
        EPALMError: an id is on one side only, or has no reference.

    CIDEr weighs words by the references given here, so score a split at once, never in parts.
    """
    check(predictions, references, "reference")
    ids = list(references)
    captions = [tokenize(predictions[key]) for key in ids]
    truths = [[tokenize(reference) for reference in references[key]] for key in ids]

    counts = [bleu_counts(*pair) for pair in zip(captions, truths, strict=True)]
    cider_d = CiderD(truths)
    samples: list[dict[str, float]] = []
    for caption, truth, count in zip(captions, truths, counts, strict=True):
        scores = dict(zip(BLEUS, bleu(count), strict=True))
        samples.append(scores | {"ROUGE-L": rouge_l(caption, truth), "CIDEr": cider_d.score(caption, truth)})
    corpus = dict(zip(BLEUS, bleu(add(counts)), strict=True))
    corpus |= {name: mean([scores[name] for scores in samples]) for name in ("ROUGE-L", "CIDEr")}

    absent = {}
    for name, metric in (("METEOR", meteor), ("SPICE", spice)) if java else ():
        try:
            corpus[name], values = metric(captions, truths)
        except Unavailable as why:
            absent[name] = str(why)
            continue
        for scores, value in zip(samples, values, strict=True):
            scores[name] = value
    return CaptionScores(corpus, dict(zip(ids, samples, strict=True)), absent)


def score_vqa(predictions: Mapping[str, str], answers: Mapping[str, Sequence[str]]) -> AnswerScores:
    """VQA v2 accuracy over a split: `answers` holds the (normally ten) human answers by question id.

    Raises:
        EPALMError: an id is on one side only, or has no answer.
    """
    return score_answers(predictions, answers, vqa_accuracy)


def score_labels(predictions: Mapping[str, str], labels: Mapping[str, Mapping[str, float]]) -> AnswerScores:
    """GQA exact match, open-ended accuracy of MSRVTT-QA and MSVD-QA: `labels` holds {answer: score} by id.

    Raises:
        EPALMError: an id is on one side only, or has no answer.
    """
    return score_answers(predictions, labels, label_accuracy)


def score_answers(
    predictions: Mapping[str, str], truths: Mapping[str, T], score: Callable[[str, T], float]
) -> AnswerScores:
    check(predictions, truths, "answer")
    samples = {key: score(predictions[key], truth) for key, truth in truths.items()}
    return AnswerScores(mean(list(samples.values())), samples)
