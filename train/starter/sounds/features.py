"""The frozen sound encoder's features of all sounds, computed once: the starter trains on these.

Tensors of the file (N sounds in the order of sounds.jsonl, V = 1 + views, L layers, D their width):
    single   (N, V, L, D) float16   view 0 is the sound itself, the others are changed at random
    pair     (M, L, D) float16      one sound after another
    parts    (M, 2) int64           which two, both from the training or both from the test
"""

import random
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor
from torch.nn.functional import pad
from torchaudio.functional import fftconvolve, highpass_biquad, lowpass_biquad, resample

from epalm.encoders.load import load_encoder
from epalm.files import atomic, read_json_lines
from epalm.media.audio import Sound, open_audio
from epalm.media.recipes import RECIPES
from epalm.media.transforms import WHISPER_RATE

ENCODER = "starter/whisper-tiny.en"
PAIRS = {"train": 1200, "test": 160}
LONGEST_PART = 4.5  # seconds of each of two sounds


def load(path: Path) -> Tensor:
    """(1, samples) at the encoder's rate, with a peak of 1."""
    wave, rate = open_audio(path)
    wave = resample(wave.mean(0, keepdim=True), rate, WHISPER_RATE)
    return wave / wave.abs().max().clamp(min=1e-6)


def augmented(wave: Tensor, rng: random.Random) -> Tensor:
    """One random view of a sound: a part of it, another speed, filter, room and noise."""
    generator = torch.Generator().manual_seed(rng.getrandbits(40))
    if rng.random() < 0.5:
        length = round(wave.shape[1] * rng.uniform(0.6, 1))
        start = rng.randint(0, wave.shape[1] - length) if rng.random() < 0.5 else 0
        wave = wave[:, start : start + length]
    if rng.random() < 0.5:
        wave = resample(wave, WHISPER_RATE, round(WHISPER_RATE * rng.uniform(0.9, 1.1), -2))
    if rng.random() < 0.3:
        wave = lowpass_biquad(wave, WHISPER_RATE, rng.uniform(2000, 6000))
    if rng.random() < 0.3:
        wave = highpass_biquad(wave, WHISPER_RATE, rng.uniform(80, 400))
    if rng.random() < 0.4:  # a room: noise that dies away
        time = torch.arange(round(0.4 * WHISPER_RATE)) / WHISPER_RATE
        echo = torch.randn(len(time), generator=generator) * torch.exp(-time / rng.uniform(0.03, 0.12))
        wave = wave + rng.uniform(0.1, 0.5) * fftconvolve(wave, echo[None] / echo.norm())[:, : wave.shape[1]]
    if rng.random() < 0.6:
        loudness = wave.pow(2).mean().sqrt() * 10 ** (-rng.uniform(15, 45) / 20)
        wave = wave + loudness * torch.randn(wave.shape, generator=generator)
    return wave


def in_sequence(first: Tensor, second: Tensor, rng: random.Random) -> Tensor:
    """One sound, a short pause, another sound."""
    parts = [wave[:, : round(rng.uniform(1.5, LONGEST_PART) * WHISPER_RATE)] for wave in (first, second)]
    gap = round(rng.uniform(0, 0.5) * WHISPER_RATE)
    return torch.cat([pad(parts[0] * rng.uniform(0.5, 1), (0, gap)), parts[1] * rng.uniform(0.5, 1)], dim=1)


def choose_pairs(rows: list[dict], seed: int) -> list[tuple[int, int]]:
    """Pairs of sounds with different labels, from one side of the split; rare labels as often as others."""
    rng = random.Random(seed)
    pairs = []
    for split, count in PAIRS.items():
        by_label: dict[str, list[int]] = {}
        for i, row in enumerate(rows):
            if row["split"] == split and row["label_seen"]:
                by_label.setdefault(row["label"], []).append(i)
        for _ in range(count):
            labels = rng.sample(sorted(by_label), 2)
            pairs.append((rng.choice(by_label[labels[0]]), rng.choice(by_label[labels[1]])))
    return pairs


@torch.no_grad()
def encode_sounds(work: Path, views: int = 2, seed: int = 0) -> None:
    """WORK/sounds.jsonl -> WORK/sounds.safetensors; held-out sounds only get view 0."""
    rows = read_json_lines(work / "sounds.jsonl")
    encoder, recipe = load_encoder(ENCODER, progress=print), RECIPES["audio"]["starter"]
    layers = range(len(encoder.widths))

    def encode(wave: Tensor) -> Tensor:
        media = recipe(Sound(wave, WHISPER_RATE))
        return torch.stack(encoder(media[None], layers), dim=1)[0].half()  # (L, D)

    single = []
    for i, row in enumerate(rows):
        wave = load(work / row["path"])
        seen = [encode(wave)]
        for view in range(views):
            rng = random.Random(f"{seed}/{i}/{view}")
            seen.append(encode(augmented(wave, rng)) if row["split"] == "train" else seen[0])
        single.append(torch.stack(seen))
        if (i + 1) % 500 == 0:
            print(f"{i + 1} of {len(rows)} sounds", flush=True)
    pairs, pair = choose_pairs(rows, seed), []
    for i, (first, second) in enumerate(pairs):
        rng = random.Random(f"{seed}/pair/{i}")
        pair.append(
            encode(in_sequence(load(work / rows[first]["path"]), load(work / rows[second]["path"]), rng))
        )
    tensors = {"single": torch.stack(single), "pair": torch.stack(pair), "parts": torch.tensor(pairs)}
    with atomic(work / "sounds.safetensors") as file:
        file.write(save(tensors))
    print(f"{len(pairs)} pairs", flush=True)
