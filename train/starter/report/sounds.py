"""Held-out recordings: whether captions name them, and yes or no."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from epalm.model import EPALM
from train.starter.naming import names
from train.starter.report.baselines import nearest, probe
from train.starter.report.features import Opener, say
from train.starter.report.images import begin_with
from train.starter.report.table import Row, Said
from train.starter.sounds.kinds import Sound
from train.starter.sounds.public import public_sounds
from train.starter.sounds.questions import alike

TITLES = {
    "esc10": "ESC-10, fold 4: caption names it",
    "urbansound8k": "UrbanSound8K, fold 10",
    "instruments": "ten instruments",
}


def right_words(sound: Sound) -> list[str]:
    """What counts as naming a sound."""
    return sorted({*sound.words, sound.label})


def hits(texts: Sequence[str], sounds: Sequence[Sound]) -> list[float]:
    return [float(names(text, right_words(sound))) for text, sound in zip(texts, sounds, strict=True)]


def sound_rows(model: EPALM, public: Path, opener: Opener) -> tuple[list[Row], list[str]]:
    """A row for each set, and for yes and no in each."""
    everything = [sound for sound in public_sounds(public) if sound.label_seen]
    named, asked, captions = [], [], []
    for source, title in TITLES.items():
        train = [s for s in everything if s.source == source and s.split == "train"]
        test = [s for s in everything if s.source == source and s.split == "test"]
        if not test or not train:
            continue
        features = opener.features(f"{source}-test", [sound.path for sound in test])
        trained = opener.features(f"{source}-train", [sound.path for sound in train])
        both = together(trained), together(features)
        by_probe = probe(both[0], [sound.label for sound in train], both[1])
        near = [train[i].label for i in nearest(*both)]
        texts = say(model, "audio-caption", features, range(len(test)), [None] * len(test))
        captions += texts
        other = [texts[i] for i in swap([sound.label for sound in test])]
        said = [Said(Path(s.path).name, s.label, text) for s, text in zip(test, texts, strict=True)]
        columns = hits(texts, test), hits(other, test), hits(by_probe, test), hits(near, test)
        named.append(Row(title, *columns, "probe", said=said))
        asked.append(yes_or_no_row(model, title, test, features, by_probe, near))
    return named + asked, captions


def together(features: Sequence[Tensor]) -> Tensor:
    """All features of the encoder side by side."""
    return torch.cat([feature.float() for feature in features], dim=1)


def swap(labels: Sequence[object]) -> list[int]:
    """For each item the position of another one with another label (seeded)."""
    rng = random.Random(0)
    return [rng.choice([j for j, other in enumerate(labels) if other != label]) for label in labels]


def yes_or_no_row(
    model: EPALM,
    title: str,
    sounds: Sequence[Sound],
    features: Sequence[Tensor],
    by_probe: Sequence[str],
    near: Sequence[str],
) -> Row:
    """ "is this …?" about each sound, with its own caption and with that of another one of its set."""
    rng, about, questions, wanted, labels = random.Random(0), [], [], [], []
    for i, sound in enumerate(sounds):
        others = [s for s in sounds if s.label != sound.label and not alike(vars(s), vars(sound))]
        for asked, answer in ((sound, "yes"), (rng.choice(others), "no")):
            about.append(i)
            questions.append(f"is this {asked.caption}?")
            wanted.append(answer)
            labels.append(asked.label)
    swapped = swap([sound.label for sound in sounds])
    own = say(model, "audio-qa", features, about, questions)
    other = say(model, "audio-qa", features, [swapped[i] for i in about], questions)

    def guessed(said: Sequence[str]) -> list[float]:
        pairs = zip(about, labels, wanted, strict=True)
        return [float((said[i] == label) == (answer == "yes")) for i, label, answer in pairs]

    right, blind = begin_with(own, wanted), begin_with(other, wanted)
    name = f'"is this …?" {title.split(":")[0]}'
    return Row(name, right, blind, guessed(by_probe), guessed(near), "probe")
