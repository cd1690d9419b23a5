"""Samples of a sound: loaded, without the silence around them, in pieces of a useful length."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from epalm.errors import EPALMError
from epalm.media.audio import open_audio
from epalm.media.transforms import resampled

RATE = 16_000
LONGEST = 10.0  # seconds
SHORTEST = 0.06  # seconds: one closed hi-hat
SILENT = 0.01  # of the loudest sample: below this a sound has ended
PEAK = 0.7


def trimmed(samples: np.ndarray) -> np.ndarray:
    """Without the silence before and after, its loudest sample being PEAK; empty if nothing is heard."""
    loud = np.abs(samples)
    heard = np.flatnonzero(loud > SILENT * loud.max(initial=0))
    if not heard.size or loud.max() < 1e-4:
        return samples[:0]
    margin = RATE // 50
    samples = samples[max(0, heard[0] - margin) : heard[-1] + margin]
    return samples * (PEAK / loud.max())


def load(path: Path, seconds: float) -> np.ndarray:
    """The first seconds of a file: (samples,) float32 at 16 kHz, channels averaged; empty if it is broken."""
    try:
        waveform, rate = open_audio(path, seconds)
    except EPALMError as error:
        print(f"  left out: {error}", flush=True)
        return np.zeros(0, np.float32)
    return resampled(waveform.mean(0, keepdim=True), rate, RATE)[0].numpy()


def pieces(samples: np.ndarray) -> list[np.ndarray]:
    """A long recording as up to three parts of six seconds, a shorter one as it is."""
    if len(samples) <= LONGEST * RATE:
        return [samples]
    size = 6 * RATE
    starts = range(0, min(len(samples) - size // 2, 3 * size), size)
    return [samples[start : start + size] for start in starts]
