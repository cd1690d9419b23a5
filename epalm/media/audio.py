"""Read sounds: the first seconds of any audio or video file -> samples.

sound = open_audio("dog.mp3", seconds=10)  # waveform and rate
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, cast

import av
import numpy as np
import soundfile
from av.audio.stream import AudioStream

from epalm.errors import EPALMError
from epalm.media.container import MediaSource, decoded, is_mp3, open_container, open_file, track

if TYPE_CHECKING:
    from torch import Tensor

# Plausible sample rates. The upper bound also limits how much a damaged header can make us read.
MIN_RATE, MAX_RATE = 1_000, 768_000
MAX_CHANNELS = 64  # further channels are ignored

# Larger samples, like infinite ones, are damage. Up to here they may be integers stored as floats.
LARGEST = 2.0**31


class Sound(NamedTuple):
    """(channels, samples) float32 in -1…1, and its samples per second."""

    waveform: Tensor
    rate: int


def open_audio(source: MediaSource, seconds: float | None = None) -> Sound:
    """Read a sound file, or the sound track of a video.

    Args:
        source: a path or the bytes of a file.
        seconds: decode no more than this from the start; None decodes all.

    Returns:
        All channels at the file's own rate. Damaged parts are left out.

    Raises:
        EPALMError: the file is missing, empty or damaged, is a folder, or has no sound.
    """
    import torch  # the reading process never needs it

    samples, rate = read_samples(source, seconds)
    return Sound(torch.from_numpy(samples), rate)


def read_samples(source: MediaSource, seconds: float | None = None) -> tuple[np.ndarray, int]:
    """(channels, samples) float32, finite, and samples per second; see `open_audio`."""
    with open_file(source) as (file, name):
        samples, rate = read_with_soundfile(file, seconds) or read_with_av(file, name, seconds)
        if not samples.size:
            raise EPALMError(
                f"{name} has no sound that can be read: it is damaged, incomplete or has no samples."
            )
        if not MIN_RATE <= rate <= MAX_RATE:
            raise EPALMError(f"{name} has {rate} samples per second: sounds have {MIN_RATE} to {MAX_RATE}.")
        return finite(samples), rate


def finite(samples: np.ndarray) -> np.ndarray:
    """Repair damaged samples: NaN becomes 0, values that are too large become ±1."""
    samples = np.ascontiguousarray(samples, np.float32)
    damaged = ~(np.abs(samples) <= LARGEST)
    if damaged.any():
        samples = np.where(damaged, np.sign(np.nan_to_num(samples)), samples)
    return samples


def read_with_soundfile(file: BinaryIO, seconds: float | None) -> tuple[np.ndarray, int] | None:
    """WAV, FLAC, Ogg and others -> (channels, samples) and rate; None if libsndfile cannot read all of it."""
    if is_mp3(file):
        return None
    try:
        with soundfile.SoundFile(file) as sound:
            rate = sound.samplerate
            length = None if seconds is None else round(seconds * min(rate, MAX_RATE))
            blocks = sound.blocks(
                min(rate, MAX_RATE), frames=-1 if length is None else length, dtype="float32", always_2d=True
            )
            parts = [block[:, :MAX_CHANNELS].copy() for block in blocks]
    except Exception:  # damaged headers also raise TypeError and the like
        return None
    count = sum(map(len, parts))
    if not count or ((length is None or count < length) and is_chained_ogg(file)):
        return None
    return np.concatenate(parts).T, rate


def is_chained_ogg(file: BinaryIO) -> bool:
    """Whether an Ogg file has several parts one after another, such as the songs of a recorded web radio.

    libsndfile reads only the first part. FFmpeg reads all of them, unless the codec changes or the number of
    Opus channels does.
    """
    file.seek(0)
    begun = False  # whether pages with sound have come, after which no stream of the same part may begin
    while len(head := file.read(27)) == 27 and head.startswith(b"OggS"):
        if begun and head[5] & 2:  # the first page of a stream
            return True
        begun = begun or not head[5] & 2
        file.seek(sum(file.read(head[26])), 1)
    return False


def read_with_av(file: BinaryIO, name: str, seconds: float | None) -> tuple[np.ndarray, int]:
    """Any format that FFmpeg knows -> (channels, samples) and rate.

    In concatenated files the number of channels or the rate may change; everything is converted to those of
    the beginning.

    Raises:
        EPALMError: not a media file, or one without sound.
    """
    with open_container(file, name, "a sound") as container:
        stream = track(container, "audio")
        if not isinstance(stream, AudioStream):
            raise EPALMError(f"{name} has no sound track.")
        rate = 0
        parts: list[np.ndarray] = []
        wanted, have = float("inf"), 0
        for rate, samples in uniform(cast(Iterator[av.AudioFrame], decoded(container, stream))):
            wanted = float("inf") if seconds is None else round(seconds * min(rate, MAX_RATE))
            parts.append(like(samples, len(parts[0]) if parts else min(len(samples), MAX_CHANNELS)))
            have += samples.shape[1]
            if have >= wanted:
                break
    if not parts:
        return np.zeros((1, 0), np.float32), rate
    joined = np.concatenate(parts, axis=1)
    return joined if have <= wanted else joined[:, : int(wanted)], rate


def uniform(frames: Iterator[av.AudioFrame]) -> Iterator[tuple[int, np.ndarray]]:
    """The first frame's rate, with each frame's (channels, samples) resampled to it.

    The resampler returns packed samples because PyAV miscounts the planes of eight or more channels.
    """
    rate, before = 0, None
    resampler: av.AudioResampler | None = None
    for frame in frames:
        rate = rate or frame.sample_rate
        kind = frame.layout.name, frame.layout.nb_channels, frame.format.name, frame.sample_rate
        if kind != before:
            if resampler is not None:
                yield from ((rate, unpacked(rest)) for rest in resampler.resample(None))
            resampler, before = av.AudioResampler("flt", frame.layout, rate), kind
        assert resampler is not None
        frame.pts = None  # otherwise a jump in time adds silence or drops frames
        yield from ((rate, unpacked(converted)) for converted in resampler.resample(frame))
    if resampler is not None:
        yield from ((rate, unpacked(rest)) for rest in resampler.resample(None))


def unpacked(frame: av.AudioFrame) -> np.ndarray:
    """Packed floats -> (channels, samples)."""
    return frame.to_ndarray().reshape(-1, frame.layout.nb_channels).T


def like(samples: np.ndarray, channels: int) -> np.ndarray:
    """(any, samples) -> (channels, samples): the first ones, or copies of the mean if too few."""
    if len(samples) >= channels > 1 or len(samples) == channels:
        return samples[:channels]
    return np.repeat(samples.mean(0, keepdims=True, dtype=np.float32), channels, axis=0)
