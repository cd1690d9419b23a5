"""Sounds: the first seconds of any file -> the spectrogram that an encoder expects.

recipe = RECIPES["epalm-audio-16k"]
sound = recipe.open("dog.mp3")  # waveform and rate of the seconds that the spectrogram shows
spectrogram = recipe(sound)  # (1024, 128)
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import cache
from typing import Any, BinaryIO, Literal, NamedTuple, cast

import av
import numpy as np
import soundfile
import torch
import torch.nn.functional as F
from av.audio.stream import AudioStream
from torch import Tensor
from torchaudio.compliance.kaldi import fbank
from torchaudio.functional import resample
from transformers import WhisperFeatureExtractor

from epalm.config import from_dict
from epalm.errors import EPALMError
from epalm.media.container import MediaSource, decoded, is_mp3, open_container, open_file, track

SHIFT, WINDOW = 0.010, 0.025  # seconds, of the spectrogram's frames
WHISPER_RATE = 16_000
MARGIN = 0.1  # seconds read beyond the last frame, so that resampling has no edge within it

# Samples per second of what can be a sound; also bounds what a damaged header makes us read.
MIN_RATE, MAX_RATE = 1_000, 768_000


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
        All channels, at the file's own rate. What is damaged is left out.

    Raises:
        EPALMError: missing, empty or damaged file, a folder, no sound, or a video without sound.
    """
    with open_file(source) as (file, name):
        samples, rate = read_with_soundfile(file, seconds) or read_with_av(file, name, seconds)
    if not samples.size:
        raise EPALMError(
            f"{name} has no sound that can be read: it is damaged, incomplete or has no samples."
        )
    if not MIN_RATE <= rate <= MAX_RATE:
        raise EPALMError(f"{name} has {rate} samples per second: sounds have {MIN_RATE} to {MAX_RATE}.")
    waveform = torch.from_numpy(np.ascontiguousarray(samples))
    return Sound(waveform.nan_to_num(nan=0, posinf=1, neginf=-1), rate)


def read_with_soundfile(file: BinaryIO, seconds: float | None) -> tuple[np.ndarray, int] | None:
    """WAV, FLAC, Ogg and others -> (channels, samples) and rate; None where it cannot read anything."""
    if is_mp3(file):
        return None
    try:
        with soundfile.SoundFile(file) as sound:
            rate = sound.samplerate
            length = -1 if seconds is None else round(seconds * min(rate, MAX_RATE))
            samples = sound.read(length, dtype="float32", always_2d=True).T
    except soundfile.LibsndfileError:
        return None
    return (samples, rate) if samples.size else None


def read_with_av(file: BinaryIO, name: str, seconds: float | None) -> tuple[np.ndarray, int]:
    """Whatever FFmpeg knows -> (channels, samples) and rate.

    Raises:
        EPALMError: not a media file, or one without sound.
    """
    with open_container(file, name, "a sound") as container:
        stream = track(container, "audio")
        if not isinstance(stream, AudioStream):
            raise EPALMError(f"{name} has no sound track.")
        rate = stream.rate
        planar = av.AudioResampler("fltp", stream.layout, rate)
        wanted = float("inf") if seconds is None else round(seconds * rate)
        chunks: list[np.ndarray] = [np.zeros((stream.channels, 0), np.float32)]
        have = 0
        for frame in decoded(container, stream):
            for converted in planar.resample(cast(av.AudioFrame, frame)):
                chunks.append(converted.to_ndarray())  # (channels, samples)
                have += converted.samples
            if have >= wanted:
                break
    samples = np.concatenate(chunks, axis=1)
    return samples if have <= wanted else samples[:, : int(wanted)], rate


@dataclass(frozen=True)
class AudioRecipe:
    """How a sound becomes an encoder's input; stored in the adapter's config.json as a plain dict.

    The result is a Kaldi filter bank: 25 ms Hann windows every 10 ms, log mel energies from 20 Hz to half of
    the sample rate, normalised over all training sounds as (x - mean) / (2 std).

    Fields:
        name: "epalm-audio" is the original's evaluation transform.
        sample_rate: resample to this; None as in the original, where a file's own rate is kept.
        channels: "first" as in the original, or "mean" of all.
        mel_bins: width of the result.
        frames: height of the result; longer sounds are cut, shorter ones get zeros, before normalising.
        mean, std: of the log mel energies.
    """

    name: str
    sample_rate: int | None
    channels: Literal["first", "mean"]
    mel_bins: int
    frames: int
    mean: float
    std: float

    @property
    def seconds(self) -> float:
        """Length of sound that the result shows."""
        return (self.frames - 1) * SHIFT + WINDOW

    def open(self, source: MediaSource) -> Sound:
        """The seconds that this recipe is for; raises as `open_audio`."""
        return open_audio(source, self.seconds + MARGIN)

    def __call__(self, sound: Sound) -> Tensor:
        """(channels, samples) -> (frames, mel_bins) float32."""
        bank = self.spectrogram(sound)
        bank = F.pad(bank, (0, 0, 0, self.frames - len(bank)))
        return (bank - self.mean) / (2 * self.std)

    def spectrogram(self, sound: Sound) -> Tensor:
        """(channels, samples) -> (≤ frames, mel_bins) log mel energies of what there is of the sound."""
        waveform, rate = sound
        waveform = waveform - waveform.mean()
        if self.channels == "mean":
            waveform = waveform.mean(0, keepdim=True)
        if self.sample_rate is not None:
            waveform, rate = resampled(waveform[:1], rate, self.sample_rate), self.sample_rate
        missing = int(rate * WINDOW) - waveform.shape[1]
        return fbank(
            F.pad(waveform, (0, max(0, missing))),  # at least one window
            sample_frequency=rate,
            htk_compat=True,
            use_energy=False,
            window_type="hanning",
            num_mel_bins=self.mel_bins,
            dither=0.0,
            frame_shift=1000 * SHIFT,
            frame_length=1000 * WINDOW,
        )[: self.frames]  # of the first channel

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "AudioRecipe":
        """The inverse of to_dict, also after a round trip through JSON.

        Raises:
            EPALMError: a field is missing, unknown or has a value that is not allowed.
        """
        return from_dict(cls, dict(values), "The audio recipe")


@dataclass(frozen=True)
class WhisperRecipe:
    """How a sound becomes the input of a Whisper encoder; stored in the adapter's config.json.

    The result is the log mel spectrogram that Whisper was trained with, 10 ms per frame, silence behind
    shorter sounds, without values 80 decibels below the loudest one. Every sound is made as loud as the
    format allows first, so that a quiet recording is not mistaken for silence.

    Fields:
        name: "whisper".
        seconds: of sound that is heard. Whisper's own 30 are three times the work of 10.
    """

    name: Literal["whisper"]
    seconds: int

    def open(self, source: MediaSource) -> Sound:
        """The seconds that this recipe is for; raises as `open_audio`."""
        return open_audio(source, self.seconds + MARGIN)

    def __call__(self, sound: Sound) -> Tensor:
        """(channels, samples) -> (80, 100 seconds) float32."""
        waveform = resampled(sound.waveform.mean(0, keepdim=True), sound.rate, WHISPER_RATE)
        waveform = waveform / waveform.abs().max().clamp(min=1e-6)
        extract = whisper_features(self.seconds)
        return extract(waveform[0].numpy(), sampling_rate=WHISPER_RATE, return_tensors="pt").input_features[0]

    def spectrogram(self, sound: Sound) -> Tensor:
        """(channels, samples) -> (≤ 100 seconds, 80): the part of the result that shows the sound."""
        heard = math.ceil(sound.waveform.shape[1] / sound.rate / SHIFT)
        return self(sound).T[:heard]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "WhisperRecipe":
        """The inverse of to_dict; raises as `AudioRecipe.from_dict`."""
        return from_dict(cls, dict(values), "The audio recipe")


def recipe_from_dict(values: Mapping[str, Any]) -> AudioRecipe | WhisperRecipe:
    """The audio recipe in an adapter's config.json; its name tells the kind."""
    kind = WhisperRecipe if values.get("name") == "whisper" else AudioRecipe
    return kind.from_dict(values)


@cache
def whisper_features(seconds: int) -> WhisperFeatureExtractor:
    """The library's spectrogram, with its filters made once."""
    return WhisperFeatureExtractor(feature_size=80, chunk_length=seconds)


def resampled(waveform: Tensor, rate: int, wanted: int) -> Tensor:
    """(channels, samples) at another rate.

    Rates without a short common ratio (22254 Hz of old Macintoshes) are rounded to one that is inaudibly
    off: the exact filter bank would fill gigabytes.
    """
    ratio = Fraction(wanted, rate).limit_denominator(1000)
    return resample(waveform, ratio.denominator, ratio.numerator)


MEAN, STD = -4.2677393, 4.5689974  # of AudioSet, on which the AST was trained

RECIPES: dict[str, AudioRecipe | WhisperRecipe] = {
    # The original's evaluation transform.
    "epalm-audio": AudioRecipe("epalm-audio", None, "first", 128, 1024, MEAN, STD),
    # The same at the rate that the AST was trained with: what new adapters should use.
    "epalm-audio-16k": AudioRecipe("epalm-audio-16k", 16_000, "mean", 128, 1024, MEAN, STD),
    # Ten seconds, as the others.
    "starter": WhisperRecipe("whisper", 10),
}
