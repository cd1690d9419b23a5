"""Batches for the starter's image adapters: photos, labelled pictures, things drawn from the classifier."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from epalm.adapter import Adapter
from epalm.config import FeatureLayer
from epalm.decoding import InjectedLM
from epalm.encoders.base import side_by_side
from epalm.encoders.widths import parts
from epalm.files import read_json_lines
from epalm.text import TaskText
from train.batches import Batch, example_batch
from train.starter.closed_form import start_by_classes
from train.starter.distil import ClassifierSampler, Spread
from train.starter.examples import CAPTION, Example, Thing, question_about
from train.starter.pictures.features import STORED
from train.starter.pictures.groups import Group, Mixture, Shown
from train.starter.pictures.photos import read_photos
from train.starter.pictures.questions import (
    about_colour,
    about_composed,
    about_room,
    alike,
    classifier_classes,
    naming,
    yes_or_no,
)
from train.starter.pictures.rooms import RoomDirections
from train.starter.pictures.scenes import about_scene, common_nouns
from train.starter.words import LABEL_OF, with_article

STAGES, POOLED, PROBABILITIES, GRID = (0, 1, 2, 3), 4, 5, 6  # features of the encoder
WIDTHS = (16, 24, 48, 120, 1280, 1000, 1080)
WHAT_IS_SEEN = (PROBABILITIES, POOLED, *STAGES)
WHERE_IT_IS = (GRID, *STAGES)
LAYERS: dict[str, tuple[FeatureLayer, ...]] = {  # of every token, by task
    "caption": (WHAT_IS_SEEN,) * 4,
    "qa": (WHAT_IS_SEEN, WHAT_IS_SEEN, WHAT_IS_SEEN, WHERE_IT_IS, WHAT_IS_SEEN, WHERE_IT_IS),
}
PROBABLE = 1 / 20  # what a probability is divided by: AdamW moves columns of small numbers too slowly
NOISE = 0.4  # standard deviation of what is added to the standardised features, but for probabilities
LIKELY = 6  # classes that the classifier thinks of first
# How often the pooled feature of a row, and its stages, are not seen: of things, probabilities must do.
DROPPED = {"caption": 0.5, "qa": 0.35}
DROPPED_OF_SCENES = 0.1
SCENES = ("scenes", "rooms", "composed")

# Shares of a batch; of a group that is missing, the others take the share. Draws are things that no picture
# shows, in the stages and the grid of the photo that they were moved from.
SHARES = {
    "caption": {"scenes": 0.46, "draws": 0.36, "things": 0.1, "debian": 0.08},
    "qa": {"rooms": 0.28, "scenes": 0.14, "things": 0.14, "named things": 0.05, "named draws": 0.11,
           "composed": 0.06, "debian": 0.06, "draws": 0.16},
}  # fmt: skip
ABOUT_COLOUR = 0.35  # share of the questions about a cut-out of one colour
DRAWN = ("draws", "named draws")


class StarterData:
    """Everything that was prepared in the work folder.

    Attributes:
        rows: the manifest, with "split" ("train" or "test") and "label_seen".
        pictures: of the manifest; photos: public ones.
        stored: {layer: (M, D)} of all views, without the probabilities.
        mean, std: (1280,) of the pooled feature; training sees standardised ones.
        classes: what the classifier's 1000 classes are called.
        groups: pictures for training, by the names in SHARES.
        scales: (mean, std) of a token's feature, by the encoder's layers that it is made of.
    """

    def __init__(self, work: Path):
        self.rows = read_json_lines(work / "manifest.jsonl")
        self.things = [_picture(row) for row in self.rows]
        self.classes = classifier_classes()
        self.alike = alike(self.classes)
        self.train = [i for i, row in enumerate(self.rows) if row["split"] == "train"]
        self.test = [i for i, row in enumerate(self.rows) if row["split"] == "test"]
        self.pool = [*(self.things[i] for i in self.train), *self.classes]  # what questions ask for
        tensors = load_file(work / "features.safetensors")
        views = tensors[f"layer{POOLED}"].shape[1]
        stores = [{layer: tensors[f"layer{layer}"].flatten(0, 1) for layer in STORED}]
        self.pictures = [Shown(range(i * views, (i + 1) * views), row) for i, row in enumerate(self.rows)]
        end = len(self.rows) * views

        photos, composed = read_photos(work), read_composed(work)
        more: list[Shown] = []
        for row in [*photos, *composed]:
            more.append(Shown(range(end, end + row.get("views", 1)), row))
            end = more[-1].views.stop
        self.photos = more[: len(photos)]
        for name, rows in (("photo", photos), ("composed", composed)):
            if rows:
                file = load_file(work / f"{name}-features.safetensors")
                stores.append({layer: file[f"layer{layer}"] for layer in STORED})
        self.stored = {layer: torch.cat([store[layer] for store in stores]) for layer in STORED}
        self.groups = self._groups(more[len(photos) :])
        self.nouns = common_nouns(shown.row["captions"] for shown in self.group("scenes").pictures)

        real = [*self.group("scenes").pictures, *self.group("things").pictures]
        real = real or self.group("debian").pictures
        self.real = torch.tensor([view for shown in real for view in shown.views])  # rows of the features
        scale = {layer: mean_and_std(self.stored[layer][self.real].float()) for layer in STORED}
        self.mean, self.std = scale[POOLED]
        count = len(self.classes)
        scale[PROBABILITIES] = torch.zeros(count), torch.full((count,), PROBABLE)
        self.scale = scale
        self.scales: dict[FeatureLayer, tuple[Tensor, Tensor]] = {}
        for layers in (WHAT_IS_SEEN, WHERE_IT_IS):
            means, stds = zip(*(scale[layer] for layer in layers), strict=True)
            self.scales[layers] = torch.cat(means), torch.cat(stds)
        weight, bias = tensors["head.weight"].float(), tensors["head.bias"].float()
        self.sampler = ClassifierSampler(weight, bias, self.stored[POOLED][self.real].float())
        rooms = [view for shown in self.group("rooms").pictures for view in shown.views]
        self.rooms = RoomDirections(self.standardised(self.raw(rooms))) if rooms else None

    def _groups(self, composed: Sequence[Shown]) -> dict[str, Group]:
        """The training's pictures, by the names in SHARES."""
        groups: dict[str, Group] = {}
        # Twelve apples are not twelve times one.
        often = rarity([self.rows[i]["label"] for i in self.train])
        for i, weight in zip(self.train, often, strict=True):
            groups.setdefault("debian", Group()).add(self.pictures[i], weight)
        for shown in self.photos:
            if shown.row["split"] == "train":
                name = {"scene": "scenes", "class": "things", "room": "rooms"}[shown.row["kind"]]
                groups.setdefault(name, Group()).add(shown, max(1, len(shown.row["questions"])))
        for shown in composed:
            groups.setdefault("composed", Group()).add(shown)
        if "things" in groups:
            groups["named things"] = groups["things"]
        return groups

    def group(self, name: str) -> Group:
        """The group of this name; one without pictures if there is none."""
        return self.groups.get(name, Group())

    def shares(self, task: str, share: tuple[str, float] | None = None) -> dict[str, float]:
        """What of a batch is of each group that has something to show.

        Args:
            share: a group and its share; the others' keep their proportions.
        """
        shares = {name: part for name, part in SHARES[task].items() if name in (*self.groups, *DRAWN)}
        if share and share[0] in shares:
            name, wanted = share
            others = sum(shares.values()) - shares.pop(name)
            shares = {other: part / others * (1 - wanted) for other, part in shares.items()} | {name: wanted}
        total = sum(shares.values())
        return {name: part / total for name, part in shares.items()}

    def batches(self, text: TaskText, size: int, spread: Spread) -> Batches:
        """The batch of every step."""
        return Batches(self, text, size, spread)

    def mixture(self, task: str, spread: Spread) -> Mixture:
        """What the shipped adapters are trained on."""
        return Mixture(self.shares(task, spread.share), LAYERS[task], DROPPED[task])

    def sentences(self) -> list[str]:
        """What stands for each class: "The picture shows a tench"."""
        return [f"{CAPTION.input} {thing.names[0]}" for thing in self.classes]

    def start(
        self,
        adapter: Adapter,
        lm: InjectedLM,
        tokenizer: PreTrainedTokenizerBase,
        states: Mapping[int, Tensor] | None = None,
    ) -> None:
        """Let the maps of class probabilities begin as what the classes' sentences leave in the LM.

        Args:
            states: what that is, if it is known; see `start_by_classes`.
        """
        layers = adapter.config.encoder.feature_layers
        columns = {
            j: slice(len(self.classes)) for j, layer in enumerate(layers) if parts(layer)[0] == PROBABILITIES
        }
        start_by_classes(adapter, lm, tokenizer, self.sentences(), columns, PROBABLE, states)

    def raw(self, views: Sequence[int] | Tensor) -> dict[int, Tensor]:
        """What the encoder makes of some views, {layer: (B, D)} in float32."""
        rows = torch.as_tensor(views, dtype=torch.long)
        return self.with_probabilities({layer: self.stored[layer][rows].float() for layer in STORED})

    def with_probabilities(self, raw: dict[int, Tensor]) -> dict[int, Tensor]:
        return raw | {PROBABILITIES: self.sampler.scores(raw[POOLED]).softmax(-1)}

    def drawn(self, classes: Sequence[int], generator: torch.Generator, spread: Spread) -> dict[int, Tensor]:
        """Pictures of these classes that there are not, as `raw`."""
        pooled, base = self.sampler.draw_from(torch.tensor(classes), generator, spread)
        return self.with_probabilities(self.raw(self.real[base]) | {POOLED: pooled})

    def standardised(self, raw: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """Zero mean, unit variance per dimension; probabilities are counted in units of PROBABLE."""
        return {layer: (f - self.scale[layer][0]) / self.scale[layer][1] for layer, f in raw.items()}

    def clean(self, picked: Sequence[int], task: str) -> list[Tensor]:
        """The raw feature of every token, of the manifest's pictures as they are."""
        return tokens(self.raw([self.pictures[i].views[0] for i in picked]), LAYERS[task])

    def held_out(self, task: str) -> tuple[list[Tensor], list[Example]]:
        """Standardised features of every token, and examples, of the test's pictures and photos."""
        rng, picked = random.Random(0), held_out(self)
        things = [self.things[i] for i in picked]
        examples: list[Example] = [
            (None, thing.names[0]) if task == "caption" else question_about(thing, self.pool, rng)
            for thing in things
        ]
        photos = [shown for shown in self.photos if shown.row["split"] == "test"]
        raw = self.raw([shown.views[0] for shown in [*(self.pictures[i] for i in picked), *photos]])
        for i, shown in enumerate(photos, start=len(picked)):
            name = "scenes" if shown.row["kind"] == "scene" else "things"
            examples.append(self.example(name, shown.row, raw[PROBABILITIES][i], task, rng))
        return tokens(self.standardised(raw), LAYERS[task]), examples

    def example(
        self, name: str, row: dict[str, Any], probabilities: Tensor, task: str, rng: random.Random
    ) -> Example:
        """What a picture of a group teaches.

        Args:
            probabilities: (1000,) of the classes.
        """
        if name == "debian":
            if task == "caption":
                return None, _picture(row).name(rng)
            if row.get("colour") and rng.random() < ABOUT_COLOUR:
                return about_colour(row["label"], row["colour"], rng)
            return question_about(_picture(row), self.pool, rng)
        if name == "scenes":
            if task == "caption":
                return None, rng.choice(row["captions"])
            return about_scene(row["captions"], self.nouns, rng)
        if name == "rooms":
            question, answer = rng.choice(row["questions"])
            return about_room(question, answer, rng)
        if name == "composed":
            return about_composed(row, rng)
        likely = probabilities.topk(LIKELY).indices.tolist()
        return self.about_class(row["class"], likely, name == "named things", task, rng)

    def about_class(
        self, number: int, likely: Sequence[int], by_name: bool, task: str, rng: random.Random
    ) -> Example:
        """What a thing of a class teaches: its name and kind, or whether it is something."""
        thing = self.classes[number]
        if task == "caption":
            return None, thing.full_name
        if by_name:
            return naming(thing, rng)
        return yes_or_no(thing, self.classes, self.alike[number], [self.classes[c] for c in likely], rng)


class Batches:
    """The batch of every step: pictures and classifier draws.

    Args:
        text: template and tokenizer of the task.
        size: examples per batch.
        spread: how varied the classifier draws are.
        mixture: what they are made of; None = as the shipped adapters'.
    """

    def __init__(
        self,
        data: StarterData,
        text: TaskText,
        size: int,
        spread: Spread,
        seed: int = 0,
        mixture: Mixture | None = None,
    ):
        self.data, self.text, self.size, self.spread, self.seed = data, text, size, spread, seed
        self.mixture = mixture or data.mixture(text.task.name, spread)

    def __call__(self, step: int) -> Batch:
        rng, task = random.Random(f"{self.seed}/{step}"), self.text.task.name
        generator = torch.Generator().manual_seed(rng.getrandbits(40))
        data = self.data
        shares = self.mixture.shares
        names = rng.choices(list(shares), list(shares.values()), k=self.size)
        names.sort(key=lambda name: name in DRAWN)
        shown = [self.pick(name, rng) for name in names if name not in DRAWN]
        drawn = [rng.randrange(len(data.classes)) for _ in names[len(shown) :]]
        raw = data.raw([rng.choice(each.views) for each in shown])
        if drawn:
            new = data.drawn(drawn, generator, self.spread)
            raw = {layer: torch.cat([raw[layer], new[layer]]) for layer in raw}
        examples = [
            data.example(name, each.row, raw[PROBABILITIES][i], task, rng)
            for i, (name, each) in enumerate(zip(names, shown, strict=False))
        ]
        for name, number in zip(names[len(shown) :], drawn, strict=True):
            examples.append(data.about_class(number, (), name == "named draws", task, rng))
        standing = data.standardised(raw)
        rooms = [i for i, name in enumerate(names) if name == "rooms"]
        if data.rooms is not None and rooms:
            standing = data.rooms.exchanged(standing, rooms, generator)
        features = self.disturbed(standing, names, generator)
        return example_batch(tokens(features, self.mixture.layers), examples, self.text)

    def pick(self, name: str, rng: random.Random) -> Shown:
        group = self.data.groups[name]
        return rng.choices(group.pictures, group.weights)[0]

    def disturbed(
        self, features: dict[int, Tensor], names: Sequence[str], generator: torch.Generator
    ) -> dict[int, Tensor]:
        """With noise, and without the pooled feature or the stages of some rows."""
        dropped = self.mixture.dropped
        of_scenes = min(DROPPED_OF_SCENES, dropped)
        often = torch.tensor([of_scenes if name in SCENES else dropped for name in names])[:, None]
        kept = {
            group: torch.rand(len(names), 1, generator=generator) >= often for group in ((POOLED,), STAGES)
        }
        disturbed = dict(features)
        for layer in STORED:
            noise = NOISE * torch.randn(features[layer].shape, generator=generator)
            disturbed[layer] = features[layer] + noise
            for group, keep in kept.items():
                if layer in group:
                    disturbed[layer] = disturbed[layer] * keep
        return disturbed


def tokens(features: Mapping[int, Tensor], layers: Sequence[FeatureLayer]) -> list[Tensor]:
    """{layer: (B, D)} -> what every token is made of."""
    return [side_by_side(features, parts(layer)) for layer in layers]


def mean_and_std(features: Tensor) -> tuple[Tensor, Tensor]:
    return features.mean(0), features.std(0).clamp(min=1e-3)


def rarity(labels: Sequence[str], power: float = 0.5) -> list[float]:
    """How often to draw each: 1 / count^power of its label; 1 would draw all labels equally often."""
    counts = Counter(labels)
    return [counts[label] ** -power for label in labels]


def held_out(data: StarterData) -> list[int]:
    """Test pictures whose label also occurs in training."""
    return [i for i in data.test if data.rows[i]["label_seen"]]


def read_composed(work: Path) -> list[dict[str, Any]]:
    """The composed pictures that were encoded."""
    file = work / "composed.jsonl"
    return read_json_lines(file) if file.exists() else []


WORDS_OF: dict[str, set[str]] = {}
for _word, _label in LABEL_OF.items():
    WORDS_OF.setdefault(_label, set()).add(_word)


def _picture(row: dict) -> Thing:
    names = dict.fromkeys([row["caption"], with_article(row["label"])])
    return Thing(tuple(names), frozenset(WORDS_OF.get(row["label"], set()) | {row["label"]}), row["category"])
