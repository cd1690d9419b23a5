"""Metrics of the benchmarks, for every sample and for the corpus.

    scores = score_captions({"7": "a dog runs"}, {"7": ["a dog is running", "a brown dog"]})
    scores.corpus["CIDEr"], scores.samples["7"]["ROUGE-L"]

    scores = score_vqa({"42": "Two."}, {"42": ["2"] * 9 + ["3"]})
    scores.accuracy, scores.samples["42"], by_group(scores.samples, {"42": "how many"})

All values are fractions, as in pycocoevalcap; papers print them × 100 (a CIDEr of 1.13 as 113).

A new answer metric is a function (prediction, answers) -> fraction in ANSWER_METRICS; a new caption metric is
a function (captions, references) -> corpus and sample scores in CAPTION_METRICS. A benchmark lists it in
`metrics`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from epalm.errors import EPALMError
from train.metrics.bleu import ORDERS, BleuCounts, add, bleu, bleu_counts
from train.metrics.cider import CiderD
from train.metrics.exact import exact_match, label_accuracy, set_match
from train.metrics.java import Unavailable, meteor, spice
from train.metrics.rouge import rouge_l
from train.metrics.tokenizer import tokenize
from train.metrics.vqa import vqa_accuracy, vqa_accuracy_since_2021

__all__ = [
    "ANSWER_METRICS",
    "CAPTION_METRICS",
    "AnswerScores",
    "CaptionScores",
    "by_group",
    "score_answers",
    "score_captions",
    "score_labels",
    "score_vqa",
]

T = TypeVar("T")
BLEUS = tuple(f"BLEU-{order}" for order in range(1, ORDERS + 1))

Captions = Sequence[Sequence[str]]  # tokenised, one per item
References = Sequence[Sequence[Sequence[str]]]  # tokenised, several per item
CorpusAndSamples = tuple[float, Sequence[float]]


def rouge_scores(captions: Captions, references: References) -> CorpusAndSamples:
    """ROUGE-L; the corpus value is the samples' mean."""
    return averaged([rouge_l(*pair) for pair in zip(captions, references, strict=True)])


def cider_scores(captions: Captions, references: References) -> CorpusAndSamples:
    """CIDEr-D; the corpus value is the samples' mean."""
    cider_d = CiderD(references)
    return averaged([cider_d.score(*pair) for pair in zip(captions, references, strict=True)])


def averaged(samples: Sequence[float]) -> CorpusAndSamples:
    return mean(samples), samples


# By the name used in results. BLEU is separate because its corpus score needs the captions' counts.
CAPTION_METRICS: dict[str, Callable[[Captions, References], CorpusAndSamples]] = {
    "ROUGE-L": rouge_scores,
    "CIDEr": cider_scores,
}
JAVA_METRICS: dict[str, Callable[[Captions, References], CorpusAndSamples]] = {
    "METEOR": meteor,
    "SPICE": spice,
}
ANSWER_METRICS: dict[str, Callable[[str, Sequence[str]], float]] = {
    "exact match": exact_match,
    "set match": set_match,
    "VQA accuracy since March 2021": vqa_accuracy_since_2021,
    "VQA accuracy before March 2021": vqa_accuracy,
}


@dataclass(frozen=True)
class CaptionScores:
    """Caption metrics: BLEU-1..4, ROUGE-L, CIDEr (CIDEr-D), and METEOR and SPICE where they can run."""

    corpus: dict[str, float]  # by metric; BLEU and METEOR are not the mean of their samples
    samples: dict[str, dict[str, float]]  # by id, then by metric
    absent: dict[str, str] = field(default_factory=dict)  # metric -> why it is missing
    counts: tuple[BleuCounts, ...] = ()  # in the order of the samples


@dataclass(frozen=True)
class AnswerScores:
    """Accuracy of answers, in [0, 1]."""

    accuracy: float
    samples: dict[str, float]  # by id


def by_group(samples: Mapping[str, float], groups: Mapping[str, str]) -> dict[str, float]:
    """Mean score per group; `groups` maps an id to its group, such as a question type."""
    members: dict[str, list[float]] = {}
    for key, group in groups.items():
        members.setdefault(group, []).append(samples[key])
    return {group: mean(scores) for group, scores in members.items()}


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def check(predictions: Mapping[str, str], truths: Mapping[str, object], truth: str) -> None:
    """EPALMError if ids are on one side only, or items have nothing to compare with."""
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
        predictions: caption by id, as generated (an empty one scores 0).
        references: at least one human caption per id, unprocessed; the same ids.
        java: also compute METEOR and SPICE, which start Java programs (METEOR takes ten seconds to start).

    Raises:
        EPALMError: an id is on one side only, or has no reference.

    CIDEr weighs words by the references given here, so score a whole split, never parts of it.
    """
    check(predictions, references, "reference")
    ids = list(references)
    captions = [tokenize(predictions[key]) for key in ids]
    truths = [[tokenize(reference) for reference in references[key]] for key in ids]

    counts = tuple(bleu_counts(*pair) for pair in zip(captions, truths, strict=True))
    corpus = dict(zip(BLEUS, bleu(add(counts)), strict=True))
    samples = [dict(zip(BLEUS, bleu(count), strict=True)) for count in counts]
    absent: dict[str, str] = {}
    for name, metric in (CAPTION_METRICS | (JAVA_METRICS if java else {})).items():
        try:
            corpus[name], values = metric(captions, truths)
        except Unavailable as why:
            absent[name] = str(why)
            continue
        for scores, value in zip(samples, values, strict=True):
            scores[name] = value
    return CaptionScores(corpus, dict(zip(ids, samples, strict=True)), absent, counts)


def score_vqa(predictions: Mapping[str, str], answers: Mapping[str, Sequence[str]]) -> AnswerScores:
    """VQA v2 accuracy before March 2021: `answers` holds the (normally ten) human answers by question id.

    Raises:
        EPALMError: an id is on one side only, or has no answer.
    """
    return score_answers(predictions, answers, vqa_accuracy)


def score_labels(predictions: Mapping[str, str], labels: Mapping[str, Mapping[str, float]]) -> AnswerScores:
    """Exact match with weighted answers: `labels` holds {answer: score} by id.

    Raises:
        EPALMError: an id is on one side only, or has no answer.
    """
    return score_answers(predictions, labels, label_accuracy)


def score_answers(
    predictions: Mapping[str, str], truths: Mapping[str, T], score: Callable[[str, T], float]
) -> AnswerScores:
    """Score the answers of a split with one metric.

    Raises:
        EPALMError: an id is on one side only, or has no answer.
    """
    check(predictions, truths, "answer")
    samples = {key: score(predictions[key], truth) for key, truth in truths.items()}
    return AnswerScores(mean(list(samples.values())), samples)
