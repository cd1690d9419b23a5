"""The optimizer and its learning rates: the corrected ones, and the original's.

The original (`reference: true`) groups parameters in two ways, and its schedule reaches the first group only:
    questions: [connectors] scheduled, weight decay also on biases; [soft prompt] constant at prompt_lr;
    captions:  [vectors, such as biases] scheduled, no decay; [matrices] constant at lr, prompt_lr unused.
The warm-up steps at iterations 0, 100, 200, … of the first epoch, the cosine once per epoch.

The corrected default has connectors at lr and the soft prompt at prompt_lr, both warmed up linearly over
`warmup` steps and lowered along one cosine to min_lr's share, and decays matrices alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from train.settings import Optim

BLOCK = 100  # iterations per step of the original's warm-up


@dataclass(frozen=True)
class Group:
    """Parameters that share a learning rate.

    Attributes:
        lr: at its highest.
        scheduled: whether the rate changes.
    """

    names: tuple[str, ...]
    lr: float
    weight_decay: float
    scheduled: bool = True


def parameter_groups(
    adapter: nn.Module, optim: Optim, task: Literal["caption", "qa"], reference: bool
) -> list[Group]:
    """Which trained parameters share a rate, in the optimizer's order."""
    trained = {name: p for name, p in adapter.named_parameters() if p.requires_grad}
    prompt = tuple(name for name in trained if name.startswith("prompt"))
    connector = tuple(name for name in trained if name not in prompt)
    if reference and task == "caption":
        vectors = tuple(name for name, p in trained.items() if p.ndim == 1)
        matrices = tuple(name for name in trained if name not in vectors)
        groups = [
            Group(vectors, optim.lr, 0.0),
            Group(matrices, optim.lr, optim.weight_decay, scheduled=False),
        ]
    elif reference:
        groups = [
            Group(connector, optim.lr, optim.weight_decay),
            Group(prompt, optim.prompt_lr, optim.weight_decay, scheduled=False),
        ]
    else:
        groups = []
        for names, lr in ((connector, optim.lr), (prompt, optim.prompt_lr)):
            vectors = tuple(name for name in names if trained[name].ndim == 1)
            matrices = tuple(name for name in names if name not in vectors)
            groups += [Group(matrices, lr, optim.weight_decay), Group(vectors, lr, 0.0)]
    return [group for group in groups if group.names]


def make_optimizer(adapter: nn.Module, groups: list[Group]) -> torch.optim.AdamW:
    """AdamW with betas (0.9, 0.999) and eps 1e-8, as the original's."""
    parameters = dict(adapter.named_parameters())
    return torch.optim.AdamW(
        [
            {"params": [parameters[name] for name in group.names], "weight_decay": group.weight_decay}
            for group in groups
        ],
        lr=1.0,  # replaced before every step
    )


def learning_rates(
    groups: list[Group], optim: Optim, reference: bool, step: int, per_epoch: int
) -> list[float]:
    """The rate of every group for an optimizer step, counted from 0.

    Args:
        per_epoch: optimizer steps per epoch.
    """
    if reference:
        epoch, iteration = divmod(step, per_epoch)
        return [
            reference_rate(group.lr, optim, epoch, iteration) if group.scheduled else group.lr
            for group in groups
        ]
    return [group.lr * factor(optim, step, per_epoch * optim.epochs) for group in groups]


def factor(optim: Optim, step: int, steps: int) -> float:
    """What the rates are multiplied with: a linear rise, then half a cosine."""
    low, start = optim.min_lr / optim.lr, optim.warmup_lr / optim.lr
    if step < optim.warmup:
        return start + (1 - start) * (step + 1) / optim.warmup
    along = (step - optim.warmup) / max(1, steps - optim.warmup)
    return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * along))


def reference_rate(lr: float, optim: Optim, epoch: int, iteration: int) -> float:
    """The original's rate of a scheduled group at an iteration of an epoch."""
    if epoch == 0:
        done = min(max(0, math.ceil(iteration / BLOCK) - 1), optim.warmup) if iteration else 0
        if done < optim.warmup:
            return optim.warmup_lr + done * (lr - optim.warmup_lr) / optim.warmup
        return lr
    return optim.min_lr + 0.5 * (lr - optim.min_lr) * (1 + math.cos(math.pi * epoch / optim.epochs))
