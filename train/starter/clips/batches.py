"""Batches of clips for the starter's video adapters: what moves, and how."""

from __future__ import annotations

import random
from collections.abc import Callable
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
from train.starter.clips.collect import MOTIONS
from train.starter.closed_form import standardised, start_by_classes
from train.starter.distil import Spread
from train.starter.examples import KIND, Example, Thing, category_phrase, question_about
from train.starter.pictures.batches import NOISE, PROBABLE, StarterData
from train.starter.pictures.scenes import about_scene, common_nouns

CAPTION = TaskConfig("caption", "video", input="The video shows", output=" {text}.")
QA = TaskConfig("qa", "video", input="Question: {question}\nAnswer:", output=" {text}")
SEEN = (2, 0)  # the classes' probabilities and the pooled feature, side by side
LAYERS: tuple[FeatureLayer, ...] = (SEEN, SEEN, SEEN, 1, 1)  # of the tokens; 1 is what changes
WIDTHS = (2280, 2280, 2280, 175, 175)

# Shares of a batch; of a group that is missing, the others take the share. Draws are things that no clip
# shows: in the scene of a photo's clip, or moving as a motion's clip does.
SHARES = {"scenes": 0.42, "classes": 0.1, "motions": 0.2, "draws": 0.18, "moving draws": 0.1}
ABOUT_MOTION = 0.35  # share of the questions about a motion that are answered by yes or no

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
MOVES = ("is it moving?", "does it move?", "is anything moving?")
IS_DOING = ("is it {}?", "is the thing {}?")
WHICH_WAY = ("which way does it move?", "where does it go?", "in which direction does it move?")


class ClipData:
    """Clips with their features, and features of things that no clip shows.

    Attributes:
        rows: of clips.jsonl, then of photo-clips.jsonl; the latter have "captions" and "class".
        frames: (N, 8, 1280), seen: (N, 1280) their mean, changes: (N, 175).
        train, test: motions, by number.
        scenes, classes: clips of photos with captions, and of photos of a class, for training.
        scales: (mean, std) of a token's feature, by the encoder's layers that it is made of.
    """

    def __init__(self, work: Path, pictures: StarterData):
        self.rows = read_json_lines(work / "clips.jsonl")
        tensors = [load_file(work / "clips.safetensors")]
        moving = len(self.rows)
        if (work / "photo-clips.safetensors").exists():
            self.rows = self.rows + read_json_lines(work / "photo-clips.jsonl")
            tensors.append(load_file(work / "photo-clips.safetensors"))
        self.pictures = pictures
        self.frames = torch.cat([part["frames"] for part in tensors])
        self.changes = torch.cat([part["changes"] for part in tensors])
        self.seen = self.frames.float().mean(1)
        self.things = [
            Thing((row["caption"],), frozenset([*row["words"], row["label"]]), row["category"])
            for row in self.rows[:moving]
        ]
        sides = [row["split"] for row in self.rows]
        self.train = [i for i in range(moving) if sides[i] == "train"]
        self.test = [i for i in range(moving) if sides[i] == "test"]
        photos = [i for i in range(moving, len(self.rows)) if sides[i] == "train"]
        self.scenes = [i for i in photos if self.rows[i]["captions"]]
        self.classes = [i for i in photos if not self.rows[i]["captions"]]
        self.nouns = common_nouns(self.rows[i]["captions"] for i in self.scenes)
        motion = self.changes[[*self.train, *photos]]
        moves = (motion.mean(0), motion.std(0).clamp(min=1e-3))
        count = len(pictures.sampler.bias)
        probable = (torch.zeros(count), torch.full((count,), PROBABLE))
        sees = tuple(torch.cat(both) for both in zip(probable, (pictures.mean, pictures.std), strict=True))
        self.scales: dict[FeatureLayer, tuple[Tensor, Tensor]] = {SEEN: (sees[0], sees[1]), 1: moves}

    def raw(self, frames: Tensor, changes: Tensor) -> list[Tensor]:
        """(B, 8, 1280) and (B, 175) -> the feature of every token, as the encoder gives it."""
        probabilities = self.pictures.sampler.scores(frames.float()).softmax(-1).mean(1)
        seen = torch.cat([probabilities, frames.float().mean(1)], dim=1)
        return [seen if layer == SEEN else changes for layer in LAYERS]

    def features(self, frames: Tensor, changes: Tensor) -> list[Tensor]:
        """The same, standardised."""
        return standardised(self.raw(frames, changes), LAYERS, self.scales)

    def batches(self, text: TaskText, size: int, spread: Spread) -> Callable[[int], Batch]:
        """The batch of a step: clips of photos and of motions, and classifier draws as both, by SHARES."""
        groups = {
            "scenes": self.scenes,
            "classes": self.classes,
            "motions": self.train,
            "draws": [*self.scenes, *self.classes],  # whose frames they are seen in
            "moving draws": self.train,
        }
        shares = {name: share for name, share in SHARES.items() if groups[name]}
        task, classes = text.task.name, self.pictures.classes
        count = len(self.pictures.sampler.bias)

        def batch_at(step: int) -> Batch:
            rng = random.Random(f"clips/{step}")
            generator = torch.Generator().manual_seed(rng.getrandbits(40))
            names = sorted(
                rng.choices(list(shares), list(shares.values()), k=size), key=lambda n: "draws" in n
            )
            clips = [rng.choice(groups[name]) for name in names]
            shown = sum("draws" not in name for name in names)  # the first ones are what a clip shows
            drawn = [rng.randrange(len(classes)) for _ in names[shown:]]
            frames = self.frames[clips].float()
            if drawn:
                thing = self.pictures.sampler.draw(torch.tensor(drawn), generator, spread)
                moved = frames[shown:] - frames[shown:].mean(1, keepdim=True)
                share = torch.rand(len(drawn), 1, 1, generator=generator)
                frames[shown:] = (thing[:, None] + share * moved).clamp(min=0)
            features = self.features(frames, self.changes[clips])
            noise = NOISE * torch.randn(size, 1280, generator=generator)
            for feature, layer in zip(features, LAYERS, strict=True):
                if layer == SEEN:
                    feature[:, count:] += noise
            examples = [
                self.shown(clip, task, rng) if i < shown else self.drawn(drawn[i - shown], clip, task, rng)
                for i, clip in enumerate(clips)
            ]
            return example_batch(features, examples, text)

        return batch_at

    def start(self, adapter: Adapter, lm: InjectedLM, tokenizer: PreTrainedTokenizerBase) -> None:
        """Let the maps of class probabilities begin as what "The video shows" and a class' name leave."""
        classes = self.pictures.classes
        sentences = [f"{CAPTION.input} {thing.names[0]}" for thing in classes]
        columns = {j: slice(len(classes)) for j, layer in enumerate(LAYERS) if layer == SEEN}
        start_by_classes(adapter, lm, tokenizer, sentences, columns, PROBABLE)

    def held_out(self, task: str) -> tuple[list[Tensor], list[Example]]:
        """Standardised features and examples of the test clips."""
        rng = random.Random(0)
        examples = [
            self.example(self.things[i], self.rows[i]["motion"], task, self.things, rng) for i in self.test
        ]
        return self.features(self.frames[self.test], self.changes[self.test]), examples

    def shown(self, clip: int, task: str, rng: random.Random) -> Example:
        """What a clip teaches."""
        row = self.rows[clip]
        if "motion" in row:
            return self.moving(self.things[clip], row["motion"], task, rng)
        if row["captions"]:
            if task == "caption":
                return None, rng.choice(row["captions"])
            return of_video(about_scene(row["captions"], self.nouns, rng))
        return self.standing(self.pictures.classes[row["class"]], task, rng)

    def drawn(self, number: int, clip: int, task: str, rng: random.Random) -> Example:
        """What a draw from a class teaches, in the scene or with the motion of a clip."""
        thing, motion = self.pictures.classes[number], self.rows[clip].get("motion")
        return self.moving(thing, motion, task, rng) if motion else self.standing(thing, task, rng)

    def standing(self, thing: Thing, task: str, rng: random.Random) -> Example:
        """About a thing that does nothing."""
        if task == "caption":
            return None, thing.name(rng)
        return of_video(question_about(thing, self.pictures.classes, rng))

    def moving(self, thing: Thing, motion: str, task: str, rng: random.Random) -> Example:
        """About a thing that does something."""
        if task == "qa" and rng.random() < ABOUT_MOTION:
            return yes_or_no(motion, rng)
        return self.example(thing, motion, task, self.things, rng)

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


def yes_or_no(motion: str, rng: random.Random) -> Example:
    """Whether a thing does something, yes as often as no, except that most things move."""
    if rng.random() < 0.3:
        return rng.choice(MOVES), "no" if motion == "standing still" else "yes"
    if rng.random() < 0.5:
        return rng.choice(IS_DOING).format(rng.choice(MOTIONS[motion].phrases)), "yes"
    other = rng.choice([name for name in MOTIONS if name != motion])
    return rng.choice(IS_DOING).format(rng.choice(MOTIONS[other].phrases)), "no"


def of_video(example: Example) -> Example:
    """The same question about a video."""
    question, answer = example
    return question and question.replace("this image", "the video").replace("picture", "video"), answer
