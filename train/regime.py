"""The two ways to train an adapter, one class each: as the original did it, and corrected.

`Original` (`reference: true`)
    questions: connectors at lr, scheduled, weight decay on biases too; soft prompt at prompt_lr, constant;
    captions: biases at lr, scheduled, no decay; matrices and soft prompt at lr, constant;
    warm-up in steps at iterations 100, 200, … of the first epoch, then half a cosine, one value per epoch;
    texts padded on the right, loss on all tokens, summed and multiplied by 0.1;
    answers drawn with weight 0.3, 0.6, 0.9 or 1, for 1, 2, 3 or more people who gave them;
    no gradient clipping; dropout in the frozen models, as in their own training.

`Corrected`
    connectors at lr and soft prompt at prompt_lr, both scheduled; weight decay on matrices only;
    linear warm-up, then half a cosine, updated every step;
    texts padded on the left, loss on the answer's tokens only, averaged;
    one human answer, drawn uniformly; gradients clipped; no dropout in the frozen models.

regime = regime_of(settings)
groups = regime.groups(adapter)
rates = regime.rates(groups, step, per_epoch)
"""

from __future__ import annotations

import math
import random
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from epalm.text import TaskText
from train.data.manifest import Item
from train.settings import Optim, Settings

ORIGINAL_WEIGHT = 0.1  # of the original's loss
BLOCK = 100  # iterations per step of the original's warm-up

Texts = Sequence[tuple[str, str]]  # input and output of each example


@dataclass(frozen=True)
class Group:
    """Parameters that share a learning rate.

    Attributes:
        lr: peak learning rate.
        scheduled: whether the rate follows the schedule or stays constant.
    """

    names: tuple[str, ...]
    lr: float
    weight_decay: float
    scheduled: bool = True


class Regime(ABC):
    """How a training treats parameters, texts and losses.

    Attributes:
        clip: largest gradient norm, or None.
        frozen_dropout: whether dropout is on in the frozen LM and a frozen TimeSformer during training.
    """

    frozen_dropout: bool

    def __init__(self, optim: Optim, task: Literal["caption", "qa"]):
        self.optim, self.task = optim, task
        self.clip: float | None = optim.clip

    def groups(self, adapter: nn.Module) -> list[Group]:
        """The parameter groups, in the optimizer's order."""
        trained = {name: p for name, p in adapter.named_parameters() if p.requires_grad}
        return [group for group in self._groups(trained) if group.names]

    @abstractmethod
    def _groups(self, trained: dict[str, nn.Parameter]) -> list[Group]: ...

    @abstractmethod
    def rates(self, groups: Sequence[Group], step: int, per_epoch: int) -> list[float]:
        """Learning rate of every group at an optimizer step (from 0); an epoch has `per_epoch` steps."""

    @abstractmethod
    def answer(self, item: Item, rng: random.Random) -> str:
        """The answer of an item to train on this time."""

    @abstractmethod
    def text_batch(self, texts: Texts, text: TaskText) -> tuple[Tensor, Tensor, Tensor]:
        """Ids, mask and labels, (B, T) each; labels are -100 where there is no loss."""

    @abstractmethod
    def loss(self, per_token: Tensor, labels: Tensor) -> Tensor:
        """The loss of each text, (B,).

        Args:
            per_token: (B, T - 1) cross-entropy of all tokens but the first, 0 where labels are -100.
            labels: (B, T).
        """


class Original(Regime):
    """As the published adapters were trained, including choices that look unintended."""

    frozen_dropout = True

    def __init__(self, optim: Optim, task: Literal["caption", "qa"]):
        super().__init__(optim, task)
        self.clip = None

    def _groups(self, trained: dict[str, nn.Parameter]) -> list[Group]:
        optim = self.optim
        if self.task == "caption":
            vectors, matrices = vectors_and_matrices(trained)
            return [
                Group(vectors, optim.lr, 0.0),
                Group(matrices, optim.lr, optim.weight_decay, scheduled=False),
            ]
        connector, prompt = connector_and_prompt(trained)
        return [
            Group(connector, optim.lr, optim.weight_decay),
            Group(prompt, optim.prompt_lr, optim.weight_decay, scheduled=False),
        ]

    def rates(self, groups: Sequence[Group], step: int, per_epoch: int) -> list[float]:
        epoch, iteration = divmod(step, per_epoch)
        return [self._rate(group.lr, epoch, iteration) if group.scheduled else group.lr for group in groups]

    def _rate(self, lr: float, epoch: int, iteration: int) -> float:
        """Rate of a scheduled group at an iteration of an epoch."""
        optim, blocks = self.optim, self.optim.warmup_blocks
        if epoch == 0:
            done = min(max(0, math.ceil(iteration / BLOCK) - 1), blocks) if iteration else 0
            return optim.warmup_lr + done * (lr - optim.warmup_lr) / blocks if done < blocks else lr
        return optim.min_lr + 0.5 * (lr - optim.min_lr) * (1 + math.cos(math.pi * epoch / optim.epochs))

    def answer(self, item: Item, rng: random.Random) -> str:
        """Drawn in proportion to the original's soft scores."""
        counts = Counter(item.answers)
        return rng.choices(list(counts), [min(1.0, 0.3 * count) for count in counts.values()])[0]

    def text_batch(self, texts: Texts, text: TaskText) -> tuple[Tensor, Tensor, Tensor]:
        return whole_texts(texts, text)

    def loss(self, per_token: Tensor, labels: Tensor) -> Tensor:
        return ORIGINAL_WEIGHT * per_token.sum(1)


class Corrected(Regime):
    """The default for new adapters."""

    frozen_dropout = False

    def _groups(self, trained: dict[str, nn.Parameter]) -> list[Group]:
        optim = self.optim
        groups = []
        for names, lr in zip(connector_and_prompt(trained), (optim.lr, optim.prompt_lr), strict=True):
            vectors, matrices = vectors_and_matrices({name: trained[name] for name in names})
            groups += [Group(matrices, lr, optim.weight_decay), Group(vectors, lr, 0.0)]
        return groups

    def rates(self, groups: Sequence[Group], step: int, per_epoch: int) -> list[float]:
        factor = self._factor(step, per_epoch * self.optim.epochs)
        return [group.lr * factor for group in groups]

    def _factor(self, step: int, steps: int) -> float:
        """The schedule: a linear rise, then half a cosine."""
        optim, warmup = self.optim, round(self.optim.warmup * steps)
        low, start = optim.min_lr / optim.lr, optim.warmup_lr / optim.lr
        if step < warmup:
            return start + (1 - start) * (step + 1) / warmup
        along = (step - warmup) / max(1, steps - warmup)
        return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * along))

    def answer(self, item: Item, rng: random.Random) -> str:
        return rng.choice(item.answers)

    def text_batch(self, texts: Texts, text: TaskText) -> tuple[Tensor, Tensor, Tensor]:
        return answers(texts, text)

    def loss(self, per_token: Tensor, labels: Tensor) -> Tensor:
        return per_token.sum(1) / (labels[:, 1:] != -100).sum(1).clamp(min=1)


def regime_of(settings: Settings) -> Regime:
    """The regime that the settings select."""
    regime = Original if settings.reference else Corrected
    return regime(settings.optim, settings.task.name)


# ---------------------------------------------------------------- parameters


def connector_and_prompt(trained: dict[str, nn.Parameter]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the connectors' and of the soft prompt's trained parameters."""
    prompt = tuple(name for name in trained if name.startswith("prompt"))
    return tuple(name for name in trained if name not in prompt), prompt


def vectors_and_matrices(trained: dict[str, nn.Parameter]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of one-dimensional parameters such as biases, and of all others."""
    vectors = tuple(name for name, p in trained.items() if p.ndim == 1)
    return vectors, tuple(name for name in trained if name not in vectors)


def make_optimizer(adapter: nn.Module, groups: Sequence[Group]) -> torch.optim.AdamW:
    """AdamW with betas (0.9, 0.999) and eps 1e-8 as in the original; rates are set before every step."""
    parameters = dict(adapter.named_parameters())
    return torch.optim.AdamW(
        [
            {"params": [parameters[name] for name in group.names], "weight_decay": group.weight_decay}
            for group in groups
        ],
        lr=1.0,
    )


# ---------------------------------------------------------------- texts


def whole_texts(texts: Texts, text: TaskText) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, mask and labels of whole texts, padded on the right; every token has a loss."""
    rows = [text.ids(before + after) for before, after in texts]
    width, pad = max(map(len, rows)), text.pad_id
    ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return ids, mask, ids.masked_fill(mask == 0, -100)


def answers(texts: Texts, text: TaskText) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, mask and labels, padded on the left so that all texts end together; only outputs have a loss."""
    return pad_pairs([(text.ids(before), without_start(text, after)) for before, after in texts], text.pad_id)


def pad_pairs(rows: Sequence[tuple[list[int], list[int]]], pad_id: int) -> tuple[Tensor, Tensor, Tensor]:
    """(input ids, output ids) pairs -> ids, mask and labels (B, T), padded on the left."""
    width = max(len(before) + len(after) for before, after in rows)
    ids = torch.full((len(rows), width), pad_id)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    labels = torch.full((len(rows), width), -100)
    for row, (before, after) in enumerate(rows):
        start = width - len(before) - len(after)
        ids[row, start:] = torch.tensor(before + after)
        mask[row, start:] = 1
        labels[row, width - len(after) :] = torch.tensor(after)
    return ids, mask, labels


def without_start(text: TaskText, output: str) -> list[int]:
    """Ids of an output, without the start token that some tokenizers prepend to every text."""
    ids, start = text.ids(output), text.ids("")
    return ids[len(start) :] if start and ids[: len(start)] == start else ids
