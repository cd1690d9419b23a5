"""What a linear map can read off the features of clips: how the two ways of showing time were compared."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from train.starter.clips.batches import ClipData

RIDGE = (30.0, 300.0)  # penalties; the better one counts, for every kind of feature alike


def accuracy(train: Tensor, labels: Tensor, test: Tensor, truth: Tensor, ridge: float) -> float:
    """Share of (M, D) test rows whose class a ridge regression on (N, D) train rows names.

    Args:
        labels, truth: class numbers (N,) and (M,).
    """
    mean, std = train.mean(0), train.std(0) + 1e-4
    train, test = ((torch.cat([(x - mean) / std, torch.ones(len(x), 1)], dim=1)) for x in (train, test))
    targets = one_hot(labels).float()
    weights = torch.linalg.solve(train.T @ train + ridge * torch.eye(train.shape[1]), train.T @ targets)
    return (test @ weights).argmax(1).eq(truth).float().mean().item()


def motion_lines(data: ClipData) -> list[str]:
    """A table: how often the kind of motion of a held-out clip is read off each kind of feature."""
    motions = [row["motion"] for row in data.rows if "motion" in row]  # photos' clips follow
    names = sorted(set(motions))
    motion = torch.tensor([names.index(name) for name in motions])
    kinds = {
        "five frames in order, a token each (6400 numbers)": data.frames[:, [0, 2, 4, 5, 7]]
        .flatten(1)
        .float(),
        "the mean of all frames (1280)": data.seen,
        "changes between frames (175)": data.changes,
    }
    lines = ["| a linear map of | names the motion of held-out clips |", "|---|---|"]
    for name, x in kinds.items():
        best = max(
            accuracy(x[data.train], motion[data.train], x[data.test], motion[data.test], ridge)
            for ridge in RIDGE
        )
        lines.append(f"| {name} | {100 * best:.0f} % |")
    return lines
