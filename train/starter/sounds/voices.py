"""Voices: speakers recorded by Debian packages, and sentences synthesised by espeak-ng."""

from __future__ import annotations

import random
import re
import subprocess
from fnmatch import fnmatch
from pathlib import Path

import numpy as np

from train.starter.sounds.fonts import program_for
from train.starter.sounds.kinds import KINDS, Heard, section
from train.starter.sounds.samples import LONGEST, RATE, load, trimmed

NO_SPEECH = re.compile("silence|beep|tone|ascending|descending|confbridge-(join|leave)")
PER_SPEAKER = 10
VARIANTS = {"man": ("m1", "m2", "m3", "m4", "m6", "m7"), "woman": ("f1", "f2", "f3", "f4", "f5")}
PER_VARIANT = 16


def speaker(name: str, label: str, language: str, root: Path, pattern: str) -> Heard:
    """Utterances of one speaker, 1.2 to 10 seconds each."""
    rng = random.Random(name + language)
    files = sorted(
        p for p in root.rglob("*") if fnmatch(str(p), f"*/{pattern}") and not NO_SPEECH.search(str(p))
    )
    rng.shuffle(files)
    kind, pause = KINDS[f"a {label} speaking"], np.zeros(RATE // 5, np.float32)
    made = 0
    said: list[np.ndarray] = []
    wanted = rng.uniform(1.2, 5)
    for path in files:
        words = trimmed(load(path, LONGEST))
        if len(words) < RATE // 6:
            continue
        said += [words, pause]
        samples = np.concatenate(said)
        if len(samples) >= wanted * RATE:
            named = language != "-" and rng.random() < 0.5
            yield samples, kind, f"{kind.caption} {language}" if named else kind.caption, f"speaker {name}"
            made, said, wanted = made + 1, [], rng.uniform(1.2, 5)
        if made == PER_SPEAKER:
            return


def synthesised(work: Path) -> Heard:
    """Sentences in five languages by espeak-ng, whose voices have male and female variants."""
    espeak = program_for("espeak-ng", "espeak-ng")
    rng = random.Random("espeak")
    languages = []
    for line in section("sentences"):
        names, _, text = line.partition(": ")
        languages.append((*names.split(", "), text.split(" | ")))
    wav = work / "espeak.wav"
    for label, variants in VARIANTS.items():
        kind = KINDS[f"a {label} speaking"]
        for variant in variants:
            for i in range(PER_VARIANT):
                voice, language, sentences = languages[i % len(languages)]
                speed, pitch = rng.randint(120, 190), rng.randint(35, 60)
                command = [
                    espeak,
                    "-v",
                    f"{voice}+{variant}",
                    "-s",
                    str(speed),
                    "-p",
                    str(pitch),
                    "-w",
                    str(wav),
                ]
                subprocess.run([*command, rng.choice(sentences)], check=True, capture_output=True)
                caption = f"{kind.caption} {language}" if rng.random() < 0.5 else kind.caption
                yield load(wav, LONGEST), kind, caption, f"espeak {variant}"
    wav.unlink()
