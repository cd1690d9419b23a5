"""Labelled sounds: Debian's recordings, sound fonts played, voices recorded and synthesised; public sets.

Each of Debian's becomes WORK/sounds/….wav (16 kHz, mono, 16 bit, at most ten seconds, no silence at its
ends), and each sound one line of WORK/sounds.jsonl, see `kinds.Sound`. sounds.txt says what is heard in which
of Debian's files, public.txt what the public sets' classes are called.
"""

from __future__ import annotations

import random
import shutil
from collections import Counter, defaultdict
from dataclasses import asdict
from pathlib import Path

import numpy as np
import soundfile
import torch

from epalm.files import write_json_lines
from train.starter.packages import unpack
from train.starter.scale import FULL, Scale
from train.starter.sounds.fonts import FONTS, HELD_OUT, played, program_for
from train.starter.sounds.kinds import Heard, Sound, section
from train.starter.sounds.public import public_sounds
from train.starter.sounds.recordings import BEFORE, RECORDED, recordings, typing
from train.starter.sounds.samples import LONGEST, RATE, SHORTEST, trimmed
from train.starter.sounds.voices import speaker, synthesised
from train.starter.split import groups_of

TEST_SHARE = 0.15
ALIKE = 0.975  # correlation of the spectrograms of one recording in two packages


def spectrogram(samples: np.ndarray) -> np.ndarray:
    """(samples,) -> (32·64,): two seconds in 32 octave-like bands, zero-mean, unit length."""
    frames = np.pad(samples, (0, 2 * RATE))[: 2 * RATE].reshape(64, -1)
    power = np.abs(np.fft.rfft(frames * np.hanning(frames.shape[1]))) ** 2  # (64, 251)
    edges = np.unique(np.geomspace(1, power.shape[1], 33).astype(int))
    bands = np.log(np.add.reduceat(power, edges[:-1], axis=1) + 1e-3).ravel()
    return (bands - bands.mean()) / (np.linalg.norm(bands - bands.mean()) + 1e-9)


def join_duplicates(work: Path, sounds: list[Sound]) -> None:
    """Give recordings that sound the same, which packages copy from each other, one group."""
    own = [s for s in sounds if s.source not in FONTS and s.category != "voice"]
    looks = np.stack([spectrogram(soundfile.read(work / s.path, dtype="float32")[0]) for s in own])
    _, number = np.unique([s.group for s in own], return_inverse=True)
    alike = (looks @ looks.T > ALIKE) | (number[:, None] == number[None])
    for sound, first in zip(own, groups_of(torch.from_numpy(alike)), strict=True):
        sound.group = own[first].group


def split(sounds: list[Sound], seed: int = 0) -> None:
    """Set "split" by whole groups, and "label_seen".

    Two of three labels of a sound font are tested on an origin that training never hears with them. Of the
    rest, each category gives the same share; a label with one group only is tested three times less often.
    """
    groups: dict[str, list[Sound]] = defaultdict(list)
    for sound in sounds:
        groups[sound.group].append(sound)
    rng = random.Random(seed)
    played_labels = sorted({s.label for s in sounds if s.source in FONTS})
    tested = {f"{HELD_OUT}/{label}" for i, label in enumerate(played_labels) if i % 3 != 1}
    by_category: dict[str, list[str]] = defaultdict(list)
    for group, members in groups.items():
        if members[0].source not in FONTS:
            by_category[members[0].category].append(group)
    trained_groups = Counter(label for members in groups.values() for label in {s.label for s in members})
    for _, own in sorted(by_category.items()):
        rng.shuffle(own)
        wanted = TEST_SHARE * sum(len(groups[group]) for group in own)
        for group in own:
            members = groups[group]
            labels = {s.label for s in members}
            elsewhere = all(trained_groups[label] > 1 for label in labels)
            if wanted > 0 and len(members) < max(4, 1.3 * wanted) and (elsewhere or rng.random() < 0.3):
                tested.add(group)
                wanted -= len(members)
                trained_groups -= Counter(labels)
    for sound in sounds:
        sound.split = "test" if sound.group in tested else "train"
    trained = {s.label for s in sounds if s.split == "train"}
    for sound in sounds:
        sound.label_seen = sound.label in trained


def collect(work: Path) -> list[Sound]:
    """Fetch the packages, store their labelled sounds in work/sounds; returns the manifest."""
    sounds: list[Sound] = []
    seen: set[bytes] = set()

    def root_of(package: str) -> Path:
        return unpack(package, work / "debs", work / "packages")

    def store(source: str, heard: Heard) -> None:
        before = len(sounds)
        for samples, kind, caption, group in heard:
            samples = trimmed(samples)[: int(LONGEST * RATE)]
            stored = (samples * 32767).astype(np.int16)
            if len(samples) < SHORTEST * RATE or stored.tobytes() in seen:
                continue
            seen.add(stored.tobytes())
            path = f"sounds/{source}/{len(sounds):04d}-{kind.label.replace(' ', '-')}.wav"
            (work / path).parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(work / path, stored, RATE, subtype="PCM_16")
            words = list(kind.words)
            sounds.append(Sound(path, source, kind.label, caption, words, kind.category, kind.family, group))
        print(f"{source}: {len(sounds) - before} sounds", flush=True)

    for package in RECORDED:
        root = root_of(package)
        if package in BEFORE and not (root / "sounds").exists():
            BEFORE[package](root)
        store(package, recordings(package, root))
    store("bucklespring-data", typing(root_of("bucklespring-data")))
    for package in FONTS:
        store(package, played(package, root_of(package), work))
    for name, label, language, package, pattern in (line.split(" | ") for line in section("speakers")):
        store(package, speaker(name, label, language, root_of(package), pattern))
    store("espeak-ng", synthesised(work))
    return sounds


def write_sounds(work: Path, public: Path | None = None, scale: Scale = FULL) -> None:
    """Collect all sounds, split them, and list them in WORK/sounds.jsonl.

    Args:
        public: folder of the public sets, see `public.SETS`; they stay where they are.

    Raises:
        EPALMError: fluidsynth or espeak-ng is missing, or a package cannot be fetched.
    """
    for program in ("fluidsynth", "espeak-ng"):
        program_for(program, program)  # before minutes of work
    shutil.rmtree(work / "sounds", ignore_errors=True)
    sounds = scale.kinds(collect(work), lambda sound: sound.label)
    join_duplicates(work, sounds)
    split(sounds)
    sounds += scale.part(public_sounds(public), lambda sound: (sound.source, sound.label, sound.split))
    write_json_lines(work / "sounds.jsonl", map(asdict, sounds))
    for name in ("split", "category", "source"):
        print(name, dict(Counter(getattr(sound, name) for sound in sounds).most_common()))
