"""The frozen sound encoder's features of all sounds, computed once: the starter trains on these.

Tensors of the file (M views of sounds and of pairs of them):
    layers   (M, L, D) float16   of each layer
    stem     (M, S) float16
    first    (M,) int64          row of sounds.jsonl
    second   (M,) int64          row of the other sound of a pair, or -1
    mixed    (M,) bool           the two at the same time, not one after the other
    view     (M,) int64          0 is the sound itself, the others are changed at random
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from epalm.encoders.load import load_encoder
from epalm.errors import EPALMError
from epalm.files import atomic, read_json_lines
from epalm.media.audio import Sound
from epalm.media.recipes import RECIPES
from epalm.media.transforms import WHISPER_RATE
from train.starter.scale import FULL, Scale
from train.starter.sounds.mixing import BEHIND_A_VOICE, BESIDE, at_once, augmented, behind, in_sequence, load
from train.starter.sounds.public import SETS
from train.starter.sounds.questions import alike

ENCODER = "starter/whisper-tiny.en"
VIEWS = {"public": 6, "debian": 3}  # of a sound for training, the sound itself among them
PAIRS = {"train": 2000, "test": 240}  # one after the other
MIXTURES = {"train": 3600, "test": 360}
WITH_A_VOICE = {"pairs": 0.25, "mixtures": 0.5}
OUTSIDE = ("esc10", "urbansound8k")  # what may be heard far away, and where something may
BACKGROUND = 0.3  # how often it is
VOICES = ("man", "woman")

# What people hear in most recordings: three times as often in pairs as other sounds.
COMMON = {
    "car", "car horn", "traffic", "train", "siren", "motorcycle", "bus", "helicopter", "airplane", "engine",
    "bird", "dog", "children", "crowd", "applause", "baby", "footsteps", "keyboard", "factory",
    "water", "wind", "rain", "sea", "fire", "thunder",
    "music", "street music", "drums", "piano", "acoustic guitar",
}  # fmt: skip

Row = dict[str, Any]  # of sounds.jsonl


@dataclass(frozen=True)
class View:
    """What is encoded: a sound, or two of them."""

    first: int
    second: int = -1
    mixed: bool = False
    view: int = 0


def choose_pairs(
    rows: list[Row], seed: int, counts: dict[str, int] = PAIRS, voices: float = WITH_A_VOICE["pairs"]
) -> list[tuple[int, int]]:
    """Pairs of sounds that are not alike, from one side of the split; rare labels as often as others.

    Args:
        counts: pairs by side of the split.
        voices: the share whose first sound is somebody who speaks.

    Raises:
        EPALMError: all sounds of a side are alike.
    """
    rng = random.Random(seed)
    pairs = []
    for split, count in counts.items():
        by_label: dict[str, list[int]] = {}
        for i, row in enumerate(rows):
            if row["split"] == split and row["label_seen"]:
                by_label.setdefault(row["label"], []).append(i)
        labels = sorted(by_label)
        weights = [often(rows[by_label[label][0]]) for label in labels]
        speaking = [label for label in VOICES if label in by_label]
        for _ in range(count):
            for _ in range(1000):
                spoken = bool(speaking) and rng.random() < voices
                one = rng.choice(speaking) if spoken else rng.choices(labels, weights)[0]
                first = rng.choice(by_label[one])
                second = rather_public(by_label[rng.choices(labels, weights)[0]], rows, rng)
                if rows[first]["label"] != rows[second]["label"] and not alike(rows[first], rows[second]):
                    pairs.append((first, second))
                    break
            else:
                raise EPALMError(f"No two of the sounds for {split} can be told apart: collect more of them.")
    return pairs


def often(row: Row) -> float:
    """How often a label is drawn, relative to others."""
    return (3 if row["label"] in COMMON else 1) * (0.5 if row.get("category") == "instrument" else 1)


def rather_public(found: list[int], rows: list[Row], rng: random.Random) -> int:
    """One of these sounds, rather of a public set than of Debian's."""
    public = [i for i in found if rows[i].get("source") in SETS]
    return rng.choice(public if public and rng.random() < 0.6 else found)


def choose_views(rows: list[Row], seed: int, scale: Scale = FULL) -> list[View]:
    """Everything that is encoded. Sounds for testing are heard as they are."""
    views = []
    for i, row in enumerate(rows):
        several = VIEWS["public" if row["source"] in SETS else "debian"] if row["split"] == "train" else 1
        several = scale.views(several)
        views += [View(i, view=view) for view in range(several)]
    pairs, together = ({side: scale.count(n) for side, n in counts.items()} for counts in (PAIRS, MIXTURES))
    for first, second in choose_pairs(rows, seed, pairs):
        turned = random.Random(f"{seed}/{first}/{second}").random() < 0.5
        views.append(View(second, first) if turned else View(first, second))
    mixtures = choose_pairs(rows, seed + 1, together, WITH_A_VOICE["mixtures"])
    return views + [View(first, second, mixed=True) for first, second in mixtures]


class Waveforms:
    """The waveform of a view; files are kept in memory in half precision."""

    def __init__(self, work: Path, rows: list[Row], seed: int) -> None:
        self.work, self.rows, self.seed = work, rows, seed
        self.outside = [i for i, r in enumerate(rows) if r["source"] in OUTSIDE and r["split"] == "train"]
        self.load = lru_cache(4000)(lambda i: load(work / rows[i]["path"]).half())

    def of(self, view: View) -> Tensor:
        rng = random.Random(f"{self.seed}/{view}")
        wave = self.load(view.first).float()
        if view.second < 0:
            if view.view and self.rows[view.first]["source"] in OUTSIDE and rng.random() < BACKGROUND:
                wave = behind(wave, self.load(rng.choice(self.outside)).float(), rng)
            return augmented(wave, rng) if view.view else wave
        other = self.load(view.second).float()
        if view.mixed:
            voice = self.rows[view.first]["label"] in VOICES
            wave = at_once(wave, other, BEHIND_A_VOICE if voice else BESIDE, rng)
        else:
            wave = in_sequence(wave, other, rng)
        return augmented(wave, rng) if rng.random() < 0.5 else wave


@torch.no_grad()
def encode_sounds(work: Path, seed: int = 0, scale: Scale = FULL) -> None:
    """WORK/sounds.jsonl -> WORK/sounds.safetensors."""
    rows = read_json_lines(work / "sounds.jsonl")
    encoder, recipe = load_encoder(ENCODER, progress=print), RECIPES["audio"]["starter"]
    depth, waveforms = encoder.widths.layers, Waveforms(work, rows, seed)
    views = choose_views(rows, seed, scale)
    layers, stems = [], []
    for k, view in enumerate(views):
        media = recipe(Sound(waveforms.of(view), WHISPER_RATE))
        *each, stem = encoder(media[None], range(depth + 1))
        layers.append(torch.cat(each).half())  # (L, D)
        stems.append(stem[0].half())
        if (k + 1) % 500 == 0:
            print(f"{k + 1} of {len(views)} sounds", flush=True)
    tensors = {
        "layers": torch.stack(layers),
        "stem": torch.stack(stems),
        "first": torch.tensor([view.first for view in views]),
        "second": torch.tensor([view.second for view in views]),
        "mixed": torch.tensor([view.mixed for view in views]),
        "view": torch.tensor([view.view for view in views]),
    }
    with atomic(work / "sounds.safetensors") as file:
        file.write(save(tensors))
