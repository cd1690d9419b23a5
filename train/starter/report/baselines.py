"""What can be said of held-out media without an adapter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot

PENALTY = 1e-3  # of the probe, per item and feature


def standard(train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    """Both in float32, with the training's mean and deviation taken out."""
    train, test = train.float(), test.float()
    mean, std = train.mean(0), train.std(0).clamp(min=1e-3)
    return (train - mean) / std, (test - mean) / std


def nearest(train: Tensor, test: Tensor) -> list[int]:
    """(N, D) and (M, D) features -> for each of the M the row of the most similar of the N (cosine)."""
    train, test = standard(train, test)
    return (normalize(test, dim=1) @ normalize(train, dim=1).T).argmax(1).tolist()


def probe(train: Tensor, labels: Sequence[str], test: Tensor) -> list[str]:
    """A linear probe, ridge regression from features to classes -> the label of every test row."""
    names = sorted(set(labels))
    train, test = standard(train, test)
    targets = one_hot(torch.tensor([names.index(label) for label in labels]), len(names)).float()
    targets -= targets.mean(0)
    kernel = train @ train.T  # (N, N): there are fewer items than features
    kernel.diagonal().add_(PENALTY * train.numel())
    scores = test @ (train.T @ torch.linalg.solve(kernel, targets)) + targets.mean(0)
    return [names[i] for i in scores.argmax(1).tolist()]


def usual_answers(questions: Sequence[str], answers: Sequence[str]) -> tuple[dict[str, str], str]:
    """The most frequent answer to each question, and that of all."""
    by_question: dict[str, Counter[str]] = {}
    for question, answer in zip(questions, answers, strict=True):
        by_question.setdefault(question, Counter())[answer] += 1
    usual = {question: counts.most_common(1)[0][0] for question, counts in by_question.items()}
    return usual, Counter(answers).most_common(1)[0][0]
