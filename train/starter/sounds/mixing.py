"""Waveforms of the starter's sounds: changed at random, one after the other, or at the same time.

A waveform is (1, samples) at the encoder's rate.
"""

from __future__ import annotations

import random
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import pad
from torchaudio.functional import fftconvolve, highpass_biquad, lowpass_biquad, resample

from epalm.media.audio import open_audio
from epalm.media.transforms import WHISPER_RATE

LONGEST = 10.0  # seconds: what the encoder hears
LONGEST_PART = 4.5  # seconds of each of two sounds one after the other
TOGETHER = 3.5, 8.0  # seconds of two sounds at the same time
BEHIND_A_VOICE = -14, 2  # decibels of another sound, against the voice
BESIDE = -7, 7  # of one sound against another
FAR_AWAY = -25, -12  # of a sound that is not mentioned


def load(path: Path) -> Tensor:
    """The first ten seconds, with a peak of 1."""
    wave, rate = open_audio(path, LONGEST + 0.1)
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
        level = wave.pow(2).mean().sqrt() * gain(-rng.uniform(15, 45))
        wave = wave + level * torch.randn(wave.shape, generator=generator)
    return wave


def in_sequence(first: Tensor, second: Tensor, rng: random.Random) -> Tensor:
    """One sound, a short pause, another sound."""
    parts = [wave[:, : round(rng.uniform(1.5, LONGEST_PART) * WHISPER_RATE)] for wave in (first, second)]
    gap = round(rng.uniform(0, 0.5) * WHISPER_RATE)
    return torch.cat([pad(parts[0] * rng.uniform(0.5, 1), (0, gap)), parts[1] * rng.uniform(0.5, 1)], dim=1)


def at_once(first: Tensor, second: Tensor, decibels: tuple[float, float], rng: random.Random) -> Tensor:
    """Two sounds at the same time, short ones repeated.

    Args:
        decibels: the range in which the second one's loudness against the first one's is drawn.
    """
    length = round(rng.uniform(*TOGETHER) * WHISPER_RATE)
    other = filled(as_loud(second), length, rng)
    return filled(as_loud(first), length, rng) + gain(rng.uniform(*decibels)) * other


def behind(wave: Tensor, other: Tensor, rng: random.Random) -> Tensor:
    """A sound with another one far away, as recordings outside have them."""
    return as_loud(wave) + gain(rng.uniform(*FAR_AWAY)) * filled(as_loud(other), wave.shape[1], rng)


def filled(wave: Tensor, length: int, rng: random.Random) -> Tensor:
    """A random part of a longer sound; a shorter one repeated after pauses, mostly up to that length."""
    if wave.shape[1] > length:
        start = rng.randint(0, wave.shape[1] - length)
        return wave[:, start : start + length]
    out = wave
    while out.shape[1] < length and rng.random() < 0.85:
        pause = round(rng.uniform(0, 0.8) * WHISPER_RATE)
        out = torch.cat([pad(out, (0, pause)), wave], dim=1)
    start = rng.randint(0, max(0, length - out.shape[1]))
    return pad(out, (start, max(0, length - start - out.shape[1])))[:, :length]


def as_loud(wave: Tensor) -> Tensor:
    """With a root mean square of 1 over the louder half of its 50 ms windows, so that pauses do not count."""
    size = WHISPER_RATE // 20
    windows = wave[:, : wave.shape[1] // size * size].view(-1, size)
    if len(windows) < 2:
        windows = wave
    level = windows.pow(2).mean(1).sqrt()
    return wave / level[level >= level.median()].mean().clamp(min=1e-5)


def gain(decibels: float) -> float:
    return 10 ** (decibels / 20)
