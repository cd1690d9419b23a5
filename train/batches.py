"""Training batches, and where they come from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from epalm.text import TaskText
from train.data.manifest import Item, rng_of
from train.features.source import FeatureSource
from train.regime import Regime, answers
from train.settings import Settings


@dataclass(frozen=True)
class Batch:
    """Training examples that are processed together.

    Attributes:
        weights: each row's share of the step's loss, summing to 1 over all processes; None for equal shares.
    """

    features: list[Tensor]  # n tensors (B, D_j), one per injected hidden state
    ids: Tensor  # (B, T), input and output
    mask: Tensor  # (B, T), 1 = text, 0 = padding
    labels: Tensor  # (B, T), -100 where nothing is learned
    weights: Tensor | None = None  # (B,)

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, rows: slice | Tensor) -> Batch:
        """Some rows of the batch, without the columns that are only padding in them."""
        used = self.mask[rows].any(0)
        columns = slice(int(used.int().argmax()), len(used) - int(used.flip(0).int().argmax()))
        ids, mask, labels = (t[rows, columns] for t in (self.ids, self.mask, self.labels))
        weights = None if self.weights is None else self.weights[rows]
        return Batch([feature[rows] for feature in self.features], ids, mask, labels, weights)

    def parts(self, count: int, world: int = 1) -> Iterator[Batch]:
        """Split the batch into exactly `count` parts; parts without rows get one row of weight 0."""
        equal = torch.full((len(self),), 1 / (len(self) * world))
        weights = equal if self.weights is None else self.weights
        size = ceil(len(self) / count)
        for start in range(0, count * size, size):
            part = dataclasses.replace(self, weights=weights).rows(slice(start, start + size))
            yield part if len(part) else self.filler()

    def parts_by_length(self, count: int, world: int = 1, pass_cost: int = 0) -> Iterator[Batch]:
        """Like `parts`, but groups texts of similar length, and makes more parts if that saves padding.

        Args:
            pass_cost: how much an additional part must save, in token rows.
        """
        lengths = self.mask.sum(1)
        order = lengths.argsort(stable=True)
        weights = torch.full((len(self),), 1 / (len(self) * world)) if self.weights is None else self.weights
        ordered = dataclasses.replace(self, weights=weights).rows(order)
        ends = cuts(lengths[order].tolist(), ceil(len(self) / count), pass_cost)
        for start, end in zip([0, *ends], ends, strict=False):
            yield ordered.rows(slice(start, end))

    def filler(self) -> Batch:
        """A row of weight 0, for a process that has no data but must take part in the step."""
        return dataclasses.replace(self, weights=torch.zeros(len(self))).rows(slice(1))

    def to(self, device: torch.device | str) -> Batch:
        weights = None if self.weights is None else self.weights.to(device)
        ids, mask, labels = (t.to(device) for t in (self.ids, self.mask, self.labels))
        return Batch([feature.to(device) for feature in self.features], ids, mask, labels, weights)


def cuts(lengths: Sequence[int], most: int, pass_cost: int) -> list[int]:
    """Split texts of ascending lengths so that padding and passes cost least; returns the parts' ends.

    Args:
        most: the most texts in a part.
        pass_cost: fixed cost of a part, in token rows.
    """
    best: list[tuple[int, list[int]]] = [(0, [])]  # for the first 0, 1, … texts: cost, ends
    for end in range(1, len(lengths) + 1):
        options = (
            (best[start][0] + (end - start) * lengths[end - 1] + pass_cost, start)
            for start in range(max(0, end - most), end)
        )
        cost, start = min(options)
        best.append((cost, [*best[start][1], end]))
    return best[-1][1]


def example_batch(
    features: list[Tensor], examples: Sequence[tuple[str | None, str]], text: TaskText
) -> Batch:
    """A batch of features, (B, D_j) per token, and B pairs of question (None for captions) and answer."""
    return Batch(features, *answers([text.training_text(*example) for example in examples], text))


class Source(Protocol):
    """Provides the batches of a training."""

    @property
    def per_epoch(self) -> int:
        """Optimizer steps per epoch."""

    @property
    def count(self) -> int:
        """Examples per epoch, over all processes."""

    def __call__(self, step: int) -> Batch:
        """This process's part of a step's batch. It depends only on the step, not on earlier calls."""

    def about(self, step: int) -> list[Any]:
        """The content of a step's batch as plain values, reported if its loss is not finite."""


@dataclass(frozen=True)
class DrawnBatches:
    """Batches of `size` examples that a function draws for each step; an epoch has `per_epoch` steps."""

    draw: Callable[[int], Batch]
    size: int
    per_epoch: int

    @property
    def count(self) -> int:
        return self.size * self.per_epoch

    def __call__(self, step: int) -> Batch:
        return self.draw(step)

    def about(self, step: int) -> list[Any]:
        return [{"drawn for step": step}]


@dataclass(frozen=True)
class TrainingSet:
    """Items that share a task; `weight` is how often each is seen per epoch, on average."""

    items: Sequence[Item]
    text: TaskText
    weight: float = 1.0

    def __len__(self) -> int:
        """Examples per epoch."""
        return max(1, round(self.weight * len(self.items)))


class Example(NamedTuple):
    """An item in a training step: which view of its file, and the input and output texts."""

    item: Item
    draw: int
    text: tuple[str, str]


def media_of(examples: Sequence[Example]) -> tuple[list[Item], list[int]]:
    """The arguments for a feature source: items and draws."""
    return [example.item for example in examples], [example.draw for example in examples]


class ItemBatches:
    """Batches of items from manifests, shuffled anew in each epoch.

    With weight 1, an epoch has every item of a set once. With other weights, each epoch continues a shuffled
    sequence where the previous one ended, so that all items are seen equally often.

    Args:
        sets: the training sets to mix.
        rank, world: this process takes every `world`-th item of a step.
    """

    def __init__(
        self,
        settings: Settings,
        sets: Sequence[TrainingSet],
        features: FeatureSource,
        regime: Regime,
        rank: int = 0,
        world: int = 1,
    ):
        self.sets, self.features, self.regime = sets, features, regime
        self.rank, self.world = rank, world
        self.seed, self.draws = settings.optim.seed, settings.data.draws
        self.encoded = settings.optim.batch  # files per batch of a live encoder
        self.per_step = items_per_step(settings, world)
        self.count = sum(map(len, sets))
        self.per_epoch = ceil(self.count / self.per_step)
        self.permutation = lru_cache(maxsize=2 + 2 * len(sets))(permutation)

    def __call__(self, step: int) -> Batch:
        own, weights = self.own(step)
        parts = [own[start : start + self.encoded] for start in range(0, len(own), self.encoded)]
        encoded = [self.features(*media_of(part), self.regime.frozen_dropout) for part in parts]
        features = [torch.cat(of_layer) for of_layer in zip(*encoded, strict=True)]
        self.features.ahead(*media_of(self.own(step + 1)[0]))
        texts = [example.text for example in own]
        return Batch(features, *self.regime.text_batch(texts, self.sets[0].text), weights)

    def own(self, step: int) -> tuple[list[Example], Tensor]:
        """This process's examples of a step, and their weights."""
        examples = self.examples_of(step)
        own = examples[self.rank :: self.world]
        weights = torch.full((len(own),), 1 / len(examples)) if own else torch.zeros(1)
        found = []
        for text, item in own or examples[:1]:  # a process without items still has to synchronise
            rng = rng_of(item, f"{self.seed}/{step}")
            draw = rng.randint(1, self.draws) if self.draws else 0
            found.append(Example(item, draw, text.training_text(item.prompt, self.regime.answer(item, rng))))
        return found, weights

    def about(self, step: int) -> list[Any]:
        return [dataclasses.asdict(item) for _, item in self.examples_of(step)]

    def examples_of(self, step: int) -> list[tuple[TaskText, Item]]:
        """The items of an optimizer step over all processes, each with its task's text."""
        epoch, place = divmod(step, self.per_epoch)
        order = self.permutation(self.count, self.seed * 1_000_003 + epoch)
        return [self.example(epoch, i) for i in order[place * self.per_step : (place + 1) * self.per_step]]

    def example(self, epoch: int, place: int) -> tuple[TaskText, Item]:
        """The example at a position of the epoch before shuffling, where sets follow one another."""
        number = 0
        while place >= len(self.sets[number]):
            place -= len(self.sets[number])
            number += 1
        chosen = self.sets[number]
        if chosen.weight != 1:
            around, place = divmod(epoch * len(chosen) + place, len(chosen.items))
            seed = self.seed * 1_000_003 + 1_009 * (number + 1) + around
            place = self.permutation(len(chosen.items), seed)[place]
        return chosen.text, chosen.items[place]


def permutation(length: int, seed: int) -> list[int]:
    return torch.randperm(length, generator=torch.Generator().manual_seed(seed)).tolist()


def items_per_step(settings: Settings, world: int) -> int:
    """Items per optimizer step, over all processes."""
    return settings.optim.batch * settings.optim.accumulate * world


def limited(items: list[Item], fraction: float, seed: int) -> list[Item]:
    """A fixed random part of the items in their original order; smaller parts are subsets of larger ones."""
    if fraction == 1:
        return items
    order = permutation(len(items), seed)
    return [items[i] for i in sorted(order[: max(1, round(fraction * len(items)))])]
