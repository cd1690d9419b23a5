"""Batches of clips for the starter's video adapters: what moves, and how."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from epalm.config import TaskConfig
from epalm.files import read_json_lines
from epalm.text import TaskText
from train.batches import Batch, example_batch
from train.starter.distil import Spread
from train.starter.examples import KIND, Example, Thing, category_phrase
from train.starter.pictures.batches import NOISE, StarterData

CAPTION = TaskConfig("caption", "video", input="The video shows", output=" {text}.")
QA = TaskConfig("qa", "video", input="Question: {question}\nAnswer:", output=" {text}")
LAYERS = (0, 0, 0, 1, 1)  # tokens: three of what is seen, two of what changes
WIDTHS = (1280, 1280, 1280, 175, 175)

WHAT = (
    "what is this?",
    "what is in the video?",
    "what do you see?",
    "what does the video show?",
    "what is moving?",
    "what can be seen?",
)
HOW = (
    "what happens?",
    "what is happening?",
    "what is it doing?",
    "how does it move?",
    "what does it do?",
    "how does it change?",
    "is it moving?",
)
WHICH_WAY = ("which way does it move?", "where does it go?", "in which direction does it move?")


class ClipData:
    """Clips with their features, and features of things that no clip shows.

    Attributes:
        rows: of clips.jsonl.
        frames: (N, 8, 1280), seen: (N, 1280) their mean, changes: (N, 175).
        scales: (mean, std) of the feature of every token.
    """

    def __init__(self, work: Path, pictures: StarterData):
        self.rows = read_json_lines(work / "clips.jsonl")
        tensors = load_file(work / "clips.safetensors")
        self.pictures = pictures
        self.frames, self.changes = tensors["frames"], tensors["changes"]
        self.seen = self.frames.float().mean(1)
        self.things = [
            Thing((row["caption"],), frozenset([*row["words"], row["label"]]), row["category"])
            for row in self.rows
        ]
        self.train = [i for i, row in enumerate(self.rows) if row["split"] == "train"]
        self.test = [i for i, row in enumerate(self.rows) if row["split"] == "test"]
        motion = self.changes[self.train]
        scale = {0: (pictures.mean, pictures.std), 1: (motion.mean(0), motion.std(0).clamp(min=1e-3))}
        self.scales = [scale[layer] for layer in LAYERS]
        self.scenes = self.seen[self.train] - self.seen[self.train].mean(0)

    def features(self, seen: Tensor, changes: Tensor) -> list[Tensor]:
        """(B, 1280) and (B, 175) -> the standardised feature of every token."""
        raw = (seen, changes)
        return [(raw[layer] - mean) / std for layer, (mean, std) in zip(LAYERS, self.scales, strict=True)]

    def batches(self, text: TaskText, size: int, spread: Spread) -> Callable[[int], Batch]:
        """The batch of a step: clips, and classifier draws in clips' scenes and motions, half and half."""
        things = [self.things[i] for i in self.train] + self.pictures.classes

        def batch_at(step: int) -> Batch:
            rng = random.Random(f"clips/{step}")
            generator = torch.Generator().manual_seed(rng.getrandbits(40))
            clips = rng.choices(self.train, k=size)
            half = size // 2
            classes = [rng.randrange(len(self.pictures.classes)) for _ in range(size - half)]
            drawn = self.pictures.sampler.draw(torch.tensor(classes), generator, spread)
            scene = self.scenes[torch.randint(len(self.scenes), (len(drawn),), generator=generator)]
            drawn = drawn + torch.rand(len(drawn), 1, generator=generator) * scene
            features = self.features(torch.cat([self.seen[clips[:half]], drawn]), self.changes[clips])
            noise = NOISE * torch.randn(size, 1280, generator=generator)
            features = [f + noise if f.shape[1] == 1280 else f for f in features]
            shown = [self.things[i] for i in clips[:half]] + [self.pictures.classes[c] for c in classes]
            examples = [
                self.example(thing, self.rows[i]["motion"], text.task.name, things, rng)
                for thing, i in zip(shown, clips, strict=True)
            ]
            return example_batch(features, examples, text)

        return batch_at

    def held_out(self, task: str) -> tuple[list[Tensor], list[Example]]:
        """Standardised features and examples of the test clips."""
        rng = random.Random(0)
        examples = [
            self.example(self.things[i], self.rows[i]["motion"], task, self.things, rng) for i in self.test
        ]
        return self.features(self.seen[self.test], self.changes[self.test]), examples

    def example(
        self, thing: Thing, motion: str, task: str, others: list[Thing], rng: random.Random
    ) -> Example:
        """(question or None, answer): half of the questions are about the thing, half about the motion."""
        if task == "caption":
            return None, f"{thing.name(rng)} {motion}"
        draw = rng.random()
        if draw < 0.45:
            return rng.choice(WHAT), thing.name(rng)
        if draw < 0.55 and thing.category is not None:
            return rng.choice(KIND), category_phrase(thing.category)
        if draw < 0.65 and motion.startswith("moving"):
            return rng.choice(WHICH_WAY), motion.removeprefix("moving ")
        return rng.choice(HOW), motion
