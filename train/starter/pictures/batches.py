"""Batches for the starter: cached features of labelled pictures, and features drawn from the classifier."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from epalm.files import read_json_lines
from epalm.text import TaskText
from train.batches import Batch, example_batch
from train.starter.distil import MILD, ClassifierSampler, Spread
from train.starter.examples import Example, Thing, question_about
from train.starter.words import LABEL_OF, with_article

NOISE = 0.25  # standard deviation of what is added to the standardised features
TOKENS = 5  # perceptual tokens, each its own linear map of the encoder's last pooled feature


class StarterData:
    """Everything that was prepared in the work folder.

    Attributes:
        rows: the manifest, with "split" ("train" or "test") and "label_seen".
        views: (N, V, 1280) features, view 0 being the picture as it is used later.
        mean, std: (1280,) of the features; training sees standardised ones.
        classes: what the classifier's 1000 classes are called.
        scales: (mean, std) of the feature of every token.
    """

    def __init__(self, work: Path):
        self.rows = read_json_lines(work / "manifest.jsonl")
        tensors = load_file(work / "features.safetensors")
        self.views = tensors["layer4"]
        self.mean, self.std = tensors["mean"], tensors["std"].clamp(min=1e-3)
        self.things = [_picture(row) for row in self.rows]
        self.classes = classifier_classes()
        self.train = [i for i, row in enumerate(self.rows) if row["split"] == "train"]
        self.test = [i for i, row in enumerate(self.rows) if row["split"] == "test"]
        real = self.views[self.train].flatten(0, 1).float()  # (M, 1280)
        self.sampler = ClassifierSampler(tensors["head.weight"].float(), tensors["head.bias"].float(), real)

        self.scales = [(self.mean, self.std)] * TOKENS

    def batches(self, text: TaskText, size: int, spread: Spread) -> Batches:
        """The batch of every step."""
        return Batches(self, text, size, spread)

    def held_out(self, task: str) -> tuple[list[Tensor], list[Example]]:
        """Standardised features of every token, and examples, of the test pictures."""
        rng, picked = random.Random(0), held_out(self)
        pool = [self.things[i] for i in self.train]
        things = [self.things[i] for i in picked]
        examples: list[Example] = [
            (None, thing.names[0]) if task == "caption" else question_about(thing, pool, rng)
            for thing in things
        ]
        return [self.standardised(self.views[picked, 0])] * TOKENS, examples

    def standardised(self, features: Tensor) -> Tensor:
        """Zero mean, unit variance per dimension."""
        return (features.float() - self.mean) / self.std


class Batches:
    """The batch of every step: labelled pictures and classifier draws, half and half.

    Args:
        text: template and tokenizer of the task.
        size: examples per batch.
        spread: how varied the classifier draws are.
    """

    def __init__(self, data: StarterData, text: TaskText, size: int, spread: Spread = MILD, seed: int = 0):
        self.data, self.text, self.size, self.spread, self.seed = data, text, size, spread, seed
        self.pool = [data.things[i] for i in data.train] + data.classes
        # Twelve apples are not twelve times one.
        self.weights = rarity([data.rows[i]["label"] for i in data.train])

    def __call__(self, step: int) -> Batch:
        rng = random.Random(f"{self.seed}/{step}")
        generator = torch.Generator().manual_seed(rng.getrandbits(40))
        data = self.data
        pictures = rng.choices(data.train, self.weights, k=self.size // 2)
        views = [rng.randrange(data.views.shape[1]) for _ in pictures]
        classes = [rng.randrange(len(data.classes)) for _ in range(self.size - len(pictures))]
        drawn = data.sampler.draw(torch.tensor(classes), generator, self.spread)
        seen = data.views[pictures, views].float()
        if self.spread.mix:
            others = data.sampler.real[
                torch.randint(len(data.sampler.real), (len(seen),), generator=generator)
            ]
            share = self.spread.mix * torch.rand(len(seen), 1, generator=generator)
            seen = seen + share * (others - data.sampler.mean)
        features = data.standardised(torch.cat([seen, drawn]))
        features = features + NOISE * torch.randn(features.shape, generator=generator)
        things = [data.things[i] for i in pictures] + [data.classes[c] for c in classes]
        examples = [self._example(thing, rng) for thing in things]
        return example_batch([features] * TOKENS, examples, self.text)

    def _example(self, thing: Thing, rng: random.Random) -> Example:
        if self.text.task.name == "caption":
            return None, thing.name(rng)
        return question_about(thing, self.pool, rng)


def rarity(labels: Sequence[str], power: float = 0.5) -> list[float]:
    """How often to draw each: 1 / count^power of its label; 1 would draw all labels equally often."""
    counts = Counter(labels)
    return [counts[label] ** -power for label in labels]


def held_out(data: StarterData) -> list[int]:
    """Test pictures whose label also occurs in training."""
    return [i for i in data.test if data.rows[i]["label_seen"]]


def classifier_classes() -> list[Thing]:
    """What the 1000 classes show, in the classifier's order, by name and kind of thing ("beagle", "dog")."""
    lines = Path(__file__).with_name("imagenet.txt").read_text(encoding="utf-8").splitlines()
    things = []
    for line in lines:
        if line and not line.startswith("#"):
            name, kind, category = line.split(" | ")
            things.append(Thing(_phrases(name, kind), frozenset([name.lower(), kind]), category))
    return things


def _phrases(*nouns: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(with_article(noun) for noun in nouns))


WORDS_OF: dict[str, set[str]] = {}
for _word, _label in LABEL_OF.items():
    WORDS_OF.setdefault(_label, set()).add(_word)


def _picture(row: dict) -> Thing:
    names = dict.fromkeys([row["caption"], with_article(row["label"])])
    return Thing(tuple(names), frozenset(WORDS_OF.get(row["label"], set()) | {row["label"]}), row["category"])
