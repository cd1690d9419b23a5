"""Batches of sounds for the starter's audio adapters: what is heard, and in which order."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from epalm.adapter import Adapter
from epalm.config import FeatureLayer, TaskConfig
from epalm.decoding import InjectedLM
from epalm.files import read_json_lines
from epalm.text import TaskText
from train.batches import Batch, example_batch
from train.starter.closed_form import standardised, start_by_regression
from train.starter.distil import Spread
from train.starter.examples import Example
from train.starter.sounds import questions
from train.starter.sounds.public import SETS
from train.starter.sounds.questions import FalseAnswers, Row

CAPTION = TaskConfig("caption", "audio", input="You can hear", output=" {text}.")
QA = TaskConfig("qa", "audio", input="Question: {question}\nAnswer:", output=" {text}")
LAYERS = (3, 0, 1, 2)  # a token each: the stem, then the encoder's layers
NOISE = 0.3  # standard deviation of what is added to the standardised features
DROPPED = 0.2  # share of the standardised features' numbers that a batch does not see
RARE = 0.4  # a label with n sounds is heard n^0.4 times as often as one with a single sound

EVEN = 0.6  # in the closed form, an example of a caption with n examples weighs n^-0.6

# Shares of a batch by where its sounds are from; of a group that is missing, the others take the share.
SHARES = {
    "caption": {"esc10": 0.13, "urbansound8k": 0.2, "instruments": 0.13, "debian": 0.16, "voice": 0.06,
                "mixed": 0.22, "in turn": 0.1},
    "qa": {"esc10": 0.17, "urbansound8k": 0.2, "instruments": 0.13, "debian": 0.16, "voice": 0.08,
           "mixed": 0.17, "in turn": 0.09},
}  # fmt: skip


class SoundData:
    """Sounds, alone and in twos, with their features.

    Attributes:
        rows: of sounds.jsonl.
        stored: the encoder's features of every view, (M, D_j) each.
        heard: of every view, the one or two rows that it is of.
        mixed: of every view, whether the two are heard at the same time.
        train, test: views of one sound; of the test's the sound itself, if training hears its label.
        train_pairs, test_pairs: views of two sounds.
        scales: (mean, std) of a token's feature, by the encoder's layer that it is.
    """

    def __init__(self, work: Path):
        self.rows = read_json_lines(work / "sounds.jsonl")
        tensors = load_file(work / "sounds.safetensors")
        self.stored: list[Tensor] = [*tensors["layers"].unbind(1), tensors["stem"]]
        twos = zip(tensors["first"].tolist(), tensors["second"].tolist(), strict=True)
        self.heard = [[first] if second < 0 else [first, second] for first, second in twos]
        self.mixed: list[bool] = tensors["mixed"].tolist()
        clean = (tensors["view"] == 0).tolist()
        sides: dict[tuple[str, int], list[int]] = defaultdict(list)
        for view, parts in enumerate(self.heard):
            row = self.rows[parts[0]]
            if row["split"] == "train" or (clean[view] and row["label_seen"]):
                sides[row["split"], len(parts)].append(view)
        self.train, self.test = sides["train", 1], sides["test", 1]
        self.train_pairs, self.test_pairs = sides["train", 2], sides["test", 2]
        trained = [*self.train, *self.train_pairs]
        seen = [stored[trained].float() for stored in self.stored]
        self.scales: dict[FeatureLayer, tuple[Tensor, Tensor]] = {
            layer: (seen[layer].mean(0), seen[layer].std(0).clamp(min=1e-3)) for layer in LAYERS
        }
        self.false = {
            side: FalseAnswers([r for r in self.rows if r["split"] == side and r["label_seen"]])
            for side in ("train", "test")
        }

    def raw(self, views: Sequence[int]) -> list[Tensor]:
        """The feature (B, D_j) of every token, as the encoder gives it."""
        return [self.stored[layer][list(views)].float() for layer in LAYERS]

    def features(self, raw: Sequence[Tensor]) -> list[Tensor]:
        """The same, standardised."""
        return standardised(raw, LAYERS, self.scales)

    def groups(self) -> dict[str, dict[object, list[int]]]:
        """The training's views by where they are from, and there by what is drawn equally often."""
        groups: dict[str, dict[object, list[int]]] = defaultdict(lambda: defaultdict(list))
        for view in self.train:
            row = self.rows[self.heard[view][0]]
            source = row.get("source")
            name = source if source in SETS else "voice" if row["category"] == "voice" else "debian"
            groups[name][row["label"]].append(view)
        for view in self.train_pairs:
            groups["mixed" if self.mixed[view] else "in turn"][view].append(view)
        return groups

    def batches(self, text: TaskText, size: int, spread: Spread) -> Callable[[int], Batch]:
        """The batch of a step: sounds from everywhere by SHARES.

        Args:
            spread: `mix` is the largest share of another sound that each one gets.
        """
        task = text.task.name
        groups = self.groups()
        shares = {name: share for name, share in SHARES[task].items() if name in groups}
        labels = {name: list(group) for name, group in groups.items()}
        weights = {
            name: [len({self.heard[v][0] for v in group[label]}) ** RARE for label in labels[name]]
            for name, group in groups.items()
        }

        def batch_at(step: int) -> Batch:
            rng = random.Random(f"sounds/{step}")
            generator = torch.Generator().manual_seed(rng.getrandbits(40))
            views = []
            for name in rng.choices(list(shares), list(shares.values()), k=size):
                views.append(rng.choice(groups[name][rng.choices(labels[name], weights[name])[0]]))
            features = self.features(self.raw(views))
            order = torch.randperm(size, generator=generator)
            share = spread.mix * torch.rand(size, 1, generator=generator)
            features = [f + share * (f[order] - f) for f in features]
            features = [f + NOISE * torch.randn(f.shape, generator=generator) for f in features]
            kept = [torch.rand(f.shape, generator=generator) >= DROPPED for f in features]
            features = [f * keep / (1 - DROPPED) for f, keep in zip(features, kept, strict=True)]
            return example_batch(features, [self.example(view, task, rng) for view in views], text)

        return batch_at

    def start(self, adapter: Adapter, lm: InjectedLM, tokenizer: PreTrainedTokenizerBase) -> None:
        """Let an adapter's maps begin as the regression from sounds to "You can hear" and their caption."""
        rows = [self.rows[self.heard[view][0]] for view in self.train]
        counts = Counter((row.get("source"), row["caption"]) for row in rows)
        weights = torch.tensor([counts[row.get("source"), row["caption"]] ** -EVEN for row in rows])
        sentences = [f"{CAPTION.input} {row['caption']}" for row in rows]
        features = self.features(self.raw(self.train))
        start_by_regression(adapter, lm, tokenizer, features, sentences, weights)

    def held_out(self, task: str) -> tuple[list[Tensor], list[Example]]:
        """Standardised features and examples of the test's sounds, alone and in twos."""
        rng, views = random.Random(0), [*self.test, *self.test_pairs]
        return self.features(self.raw(views)), [self.plain(view, task, rng) for view in views]

    def plain(self, view: int, task: str, rng: random.Random) -> Example:
        """The usual caption, or a question."""
        rows = [self.rows[i] for i in self.heard[view]]
        if task == "caption" and not self.mixed[view]:
            return None, rows[0]["caption"] if len(rows) == 1 else questions.both(*rows)
        return self.example(view, task, rng)

    def example(self, view: int, task: str, rng: random.Random) -> Example:
        """(question or None, answer) about one sound or two."""
        rows: list[Row] = [self.rows[i] for i in self.heard[view]]
        if task == "caption":
            if len(rows) == 1:
                return None, questions.caption(rows[0], rng)
            said = questions.together if self.mixed[view] else questions.in_turn
            return None, said(rows[0], rows[1], rng)
        if rng.random() < questions.YES_NO:
            asked = questions.yes_or_no(rows, self.false[rows[0]["split"]], rng)
            if asked is not None:
                return asked
        if len(rows) == 1:
            return questions.about_one(rows[0], rng)
        return questions.about_two(rows[0], rows[1], self.mixed[view], rng)
