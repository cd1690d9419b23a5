"""Batches of sounds for the starter's audio adapters: what is heard, and in which order."""

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
from train.starter.examples import Example, category_phrase
from train.starter.pictures.batches import NOISE, rarity
from train.starter.words import with_article

CAPTION = TaskConfig("caption", "audio", input="You can hear", output=" {text}.")
QA = TaskConfig("qa", "audio", input="Question: {question}\nAnswer:", output=" {text}")
LAYERS = (0, 0, 1, 2)  # of the encoder, a token each

WHAT = (
    "what is this?",
    "what do you hear?",
    "what can you hear?",
    "what is making this sound?",
    "what sound is this?",
    "what is it?",
)
KIND = ("what kind of sound is this?", "what type of sound is it?", "what category does this belong to?")
INSTRUMENT = ("which instrument is this?", "which instrument is playing?", "what instrument do you hear?")
FAMILY = ("what kind of instrument is it?", "what family does the instrument belong to?")
WHO = ("who is speaking?", "is a man or a woman speaking?", "whose voice is it?")
FIRST = ("what comes first?", "what do you hear at the beginning?", "what is the first sound?")
LAST = ("what comes last?", "what do you hear at the end?", "what is the last sound?")
CATEGORY_PHRASES = {"instrument": "a musical instrument", "music": "music", "nature": "nature",
                    "people": "people",
                    "noise": "a noise", "household": "a household item"}  # fmt: skip


class SoundData:
    """Sounds and sequences of two with their features.

    Attributes:
        rows: of sounds.jsonl.
        single: (N, V, L, D), pair: (M, L, D), parts: M pairs of rows.
        scales: (mean, std) of the feature of every token.
    """

    def __init__(self, work: Path):
        self.rows = read_json_lines(work / "sounds.jsonl")
        tensors = load_file(work / "sounds.safetensors")
        self.single, self.pair = tensors["single"], tensors["pair"]
        self.parts: list[list[int]] = tensors["parts"].tolist()
        self.train = [i for i, row in enumerate(self.rows) if row["split"] == "train"]
        self.test = [i for i, row in enumerate(self.rows) if row["split"] == "test" and row["label_seen"]]
        side = [self.rows[first]["split"] for first, _ in self.parts]
        self.train_pairs = [i for i, split in enumerate(side) if split == "train"]
        self.test_pairs = [i for i, split in enumerate(side) if split == "test"]
        heard = torch.cat([self.single[self.train].flatten(0, 1), self.pair[self.train_pairs]]).float()
        self.scales = [(heard[:, layer].mean(0), heard[:, layer].std(0).clamp(min=1e-3)) for layer in LAYERS]

    def features(self, raw: Tensor) -> list[Tensor]:
        """(B, L, D) -> the standardised feature of every token."""
        return [
            (raw[:, layer].float() - mean) / std
            for layer, (mean, std) in zip(LAYERS, self.scales, strict=True)
        ]

    def batches(self, text: TaskText, size: int, spread: Spread) -> Callable[[int], Batch]:
        """The batch of a step: three quarters single sounds, the rest one after another.

        Args:
            spread: `mix` is the largest share of another sound that each one gets.
        """
        # Most labels of things other than instruments have one or two recordings.
        weights = rarity([self.rows[i]["label"] for i in self.train], power=0.7)

        def batch_at(step: int) -> Batch:
            rng = random.Random(f"sounds/{step}")
            generator = torch.Generator().manual_seed(rng.getrandbits(40))
            pairs = rng.choices(self.train_pairs, k=size // 4)
            single = rng.choices(self.train, weights, k=size - len(pairs))
            views = [rng.randrange(self.single.shape[1]) for _ in single]
            raw = torch.cat([self.single[single, views], self.pair[pairs]]).float()
            other = raw[torch.randperm(size, generator=generator)]
            raw = raw + spread.mix * torch.rand(size, 1, 1, generator=generator) * (other - raw)
            features = self.features(raw)
            features = [f + NOISE * torch.randn(f.shape, generator=generator) for f in features]
            heard = [[i] for i in single] + [self.parts[i] for i in pairs]
            return example_batch(
                features, [self.example(parts, text.task.name, rng) for parts in heard], text
            )

        return batch_at

    def held_out(self, task: str) -> tuple[list[Tensor], list[Example]]:
        """Standardised features and examples of the test's sounds and sequences."""
        rng = random.Random(0)
        heard = [[i] for i in self.test] + [self.parts[i] for i in self.test_pairs]
        raw = torch.cat([self.single[self.test, 0], self.pair[self.test_pairs]])
        return self.features(raw), [self.example(parts, task, rng) for parts in heard]

    def example(self, parts: list[int], task: str, rng: random.Random) -> Example:
        """(question or None, answer) about one sound or a sequence of two."""
        rows = [self.rows[i] for i in parts]
        caption = ", then ".join(row["caption"] for row in rows)
        if task == "caption":
            return None, caption
        if len(rows) == 2:
            draw = rng.random()
            if draw < 0.4:
                return rng.choice(FIRST), rows[0]["caption"]
            return (rng.choice(LAST), rows[1]["caption"]) if draw < 0.8 else (rng.choice(WHAT), caption)
        return question_about_sound(rows[0], rng)


def question_about_sound(row: dict, rng: random.Random) -> Example:
    """Half ask what it is, the rest for what kind of thing, as far as there is more to tell."""
    if rng.random() < 0.5:
        return rng.choice(WHAT), row["caption"]
    if row["category"] == "instrument" and rng.random() < 0.7:
        if row["family"] and rng.random() < 0.4:
            return rng.choice(FAMILY), with_article(row["family"])
        return rng.choice(INSTRUMENT), row["caption"]
    if row["category"] == "voice" and row["label"] in ("man", "woman") and rng.random() < 0.6:
        return rng.choice(WHO), with_article(row["label"])
    return rng.choice(KIND), kind_phrase(row["category"])


def kind_phrase(category: str) -> str:
    """ "instrument" -> "a musical instrument", "animal" -> "an animal"."""
    return CATEGORY_PHRASES.get(category) or category_phrase(category)
