"""The classes of preprocessing recipes: an opened picture, video or sound -> the encoder's tensor.

The recipes themselves are listed by name in `epalm.media.recipes`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchaudio.compliance.kaldi import fbank
from torchaudio.functional import resample

from epalm.config import from_dict
from epalm.media import previews
from epalm.media.audio import Sound
from epalm.media.container import Modality, Source
from epalm.media.reader import HERE, Reader, Reading
from epalm.media.video import Clip, check_sampling

if TYPE_CHECKING:
    from transformers import WhisperFeatureExtractor

RGB = tuple[float, float, float]

# Images with a larger aspect ratio are cropped to it before a resize that keeps the ratio.
MAX_ASPECT = 16

SHIFT, WINDOW = 0.010, 0.025  # hop and window of a spectrogram, in seconds
WHISPER_RATE = 16_000
MARGIN = 0.1  # seconds read beyond the last frame, so that resampling has no edge effect in it

# Channels cancel out (stereo with opposite phases) if their mean has less than this share of the power that
# the mean of unrelated channels would have.
CANCELLED = 0.2


class Recipe(ABC):
    """Base class of all recipes. Subclasses are frozen dataclasses with plain values as fields.

    Attributes:
        modality: the kind of file it opens.
        name: distinguishes recipes of the same class.
    """

    modality: ClassVar[Modality]
    name: str

    @abstractmethod
    def reading(self) -> Reading:
        """What to read from a file."""

    @abstractmethod
    def __call__(self, media: Any) -> Tensor:
        """An opened file -> float32 tensor, the encoder's input for one item."""

    def open(self, source: Source, reader: Reader = HERE) -> Any:
        """Read the part of a file that the recipe needs.

        Args:
            reader: who reads it; by default this process.

        Raises:
            EPALMError: the file cannot be read.
        """
        return reader.read(source, self.reading())

    @abstractmethod
    def preview(self, source: Source, reader: Reader = HERE) -> tuple[Any, str]:
        """What the encoder perceives of a file, to show to a person, and a sentence about it.

        Pictures and frames are a list of (image, caption), a sound is the image of its spectrogram. Raises
        like `open`.
        """

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)  # type: ignore[call-overload]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Any:
        """The inverse of `to_dict`, also after a round trip through JSON.

        Raises:
            EPALMError: a field is missing, unknown or has an invalid value.
        """
        return from_dict(cls, dict(values), f"The {cls.modality} recipe")


@dataclass(frozen=True)
class ImageRecipe(Recipe):
    """How an RGB image becomes an encoder's input.

    Fields:
        name: "epalm" (the paper's), "starter", or the name of a timm model for its own recipe.
        size: side of the square result, in pixels.
        resize: "squash" (both sides to the target, ignoring the ratio), "crop" (shorter side to the target,
            then the centre) or "pad" (longer side to the target, padded with the mean colour).
        crop_pct: the image is resized to floor(size / crop_pct), then the central size×size is taken.
        interpolation: a PIL resampling filter, lower case; antialiased.
        mean, std: per RGB channel, for values in 0…1.
    """

    modality: ClassVar[Modality] = "image"

    name: str
    size: int
    resize: Literal["squash", "crop", "pad"]
    crop_pct: float
    interpolation: Literal["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"]
    mean: RGB
    std: RGB

    def reading(self) -> Reading:
        return Reading("image")

    def __call__(self, media: Image.Image) -> Tensor:
        """RGB image -> (3, size, size) float32."""
        pixels = torch.from_numpy(np.array(self.fit(media))).permute(2, 0, 1)  # (3, size, size) uint8
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (self.mean, self.std))
        return (pixels.float() / 255 - mean) / std

    def preview(self, source: Source, reader: Reader = HERE) -> tuple[Any, str]:
        shown = self.fit(self.open(source, reader))
        return [(shown, "")], f"The model sees these {self.size}×{self.size} pixels."

    def fit(self, image: Image.Image) -> Image.Image:
        """The size×size image that the encoder sees, before normalisation."""
        target = math.floor(self.size / self.crop_pct)
        size = self.size, self.size
        if self.resize == "squash":
            width, height = target, target
        elif self.resize == "crop":
            shorter = min(image.size)
            image = centred(
                image, min(image.width, MAX_ASPECT * shorter), min(image.height, MAX_ASPECT * shorter)
            )
            width, height = (target * side // shorter for side in image.size)
        else:
            longer = max(image.size)
            width, height = (max(1, round(target * side / longer)) for side in image.size)
        image = image.resize((width, height), Image.Resampling[self.interpolation.upper()])
        return centred(image, *size, fill=tuple(round(255 * value) for value in self.mean))


def centred(image: Image.Image, width: int, height: int, fill: tuple[int, ...] = (0, 0, 0)) -> Image.Image:
    """The central width×height of an image, padded where the image is smaller."""
    if image.size == (width, height):
        return image
    canvas = Image.new("RGB", (width, height), fill)
    canvas.paste(image, (margin(width - image.width), margin(height - image.height)))
    return canvas


def margin(difference: int) -> int:
    """Half of a difference of sides; odd ones are rounded like in torchvision's crop and timm's pad."""
    return difference // 2 if difference > 0 else -round(-difference / 2)


@dataclass(frozen=True)
class VideoRecipe(Recipe):
    """How a video becomes an encoder's input.

    Fields:
        name: "epalm-video" is the original's evaluation transform.
        size: both sides of the result, in pixels; the ratio is not kept.
        frames: number of frames.
        sampling: "middle", "rand", "uniform" or "fpsX", see `epalm.media.video.frame_indices`.
        interpolation: "bicubic" or "bilinear".
        antialias: False as in the original, which downscales by picking single pixels.
        mean, std: per RGB channel, for values in 0…1.
    """

    modality: ClassVar[Modality] = "video"

    name: str
    size: int
    frames: int
    sampling: str
    interpolation: Literal["bicubic", "bilinear"]
    antialias: bool
    mean: RGB
    std: RGB

    def __post_init__(self) -> None:
        check_sampling(self.sampling)

    def reading(self, seed: int = 0) -> Reading:
        return Reading("video", {"frames": self.frames, "sampling": self.sampling, "seed": seed})

    def open(self, source: Source, reader: Reader = HERE, seed: int = 0) -> Clip:
        """Read the frames; `seed` is for "rand" sampling. Raises like `Recipe.open`."""
        return reader.read(source, self.reading(seed))

    def __call__(self, media: Clip) -> Tensor:
        """Frames -> (3, T, size, size) float32."""
        size = self.size, self.size
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (self.mean, self.std))
        frames = []
        for pixels in media.frames:  # one by one: all frames as floats would fill gigabytes
            frame = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None].float()
            frame = F.interpolate(frame, size, mode=self.interpolation, antialias=self.antialias)
            frame = frame.clamp(0, 255).round() / 255  # the original resizes 8-bit frames
            frames.append((frame[0] - mean) / std)  # (3, size, size)
        return torch.stack(frames, dim=1)

    def preview(self, source: Source, reader: Reader = HERE) -> tuple[Any, str]:
        return previews.look(self, source, reader)


@dataclass(frozen=True)
class AudioRecipe(Recipe):
    """How a sound becomes an encoder's input.

    The result is a Kaldi filter bank (fbank): 25 ms Hann windows every 10 ms, log mel energies from 20 Hz to
    half the sample rate, normalised with the training data's statistics as (x - mean) / (2 std).

    Fields:
        name: "epalm-audio" is the original's evaluation transform.
        sample_rate: rate to resample to; None keeps the file's own rate, as the original does.
        channels: "first" as in the original, or the "mean" of all, see `mono`.
        mel_bins: width of the result.
        frames: length of the result; longer sounds are cut, shorter ones zero-padded before normalising.
        mean, std: statistics of the log mel energies.
    """

    modality: ClassVar[Modality] = "audio"

    name: str
    sample_rate: int | None
    channels: Literal["first", "mean"]
    mel_bins: int
    frames: int
    mean: float
    std: float

    @property
    def seconds(self) -> float:
        """How much of a sound the result covers."""
        return (self.frames - 1) * SHIFT + WINDOW

    def reading(self) -> Reading:
        return Reading("audio", {"seconds": self.seconds + MARGIN})

    def __call__(self, media: Sound) -> Tensor:
        """(channels, samples) -> (frames, mel_bins) float32."""
        bank = self.spectrogram(media)
        bank = F.pad(bank, (0, 0, 0, self.frames - len(bank)))
        return (bank - self.mean) / (2 * self.std)

    def preview(self, source: Source, reader: Reader = HERE) -> tuple[Any, str]:
        return previews.listen(self, source, reader)

    def spectrogram(self, sound: Sound) -> Tensor:
        """(channels, samples) -> (≤ frames, mel_bins) log mel energies, without padding."""
        waveform, rate = sound
        waveform = waveform - waveform.mean()
        if self.channels == "mean":
            waveform = mono(waveform)
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


@dataclass(frozen=True)
class WhisperRecipe(Recipe):
    """How a sound becomes the input of a Whisper encoder.

    The result is the log mel spectrogram that Whisper was trained with: 10 ms per frame, padded with silence,
    values clipped at 80 dB below the loudest one. Every sound is first scaled to full loudness, so that a
    quiet recording is not mistaken for silence.

    Fields:
        name: "whisper".
        seconds: length that is heard. Whisper's own 30 seconds cost three times as much as 10.
    """

    modality: ClassVar[Modality] = "audio"

    name: Literal["whisper"]
    seconds: int

    def reading(self) -> Reading:
        return Reading("audio", {"seconds": self.seconds + MARGIN})

    def __call__(self, media: Sound) -> Tensor:
        """(channels, samples) -> (80, 100 seconds) float32."""
        waveform = resampled(mono(media.waveform), media.rate, WHISPER_RATE)
        waveform = waveform / waveform.abs().max().clamp(min=1e-6)
        extract = whisper_features(self.seconds)
        return extract(waveform[0].numpy(), sampling_rate=WHISPER_RATE, return_tensors="pt").input_features[0]

    def preview(self, source: Source, reader: Reader = HERE) -> tuple[Any, str]:
        return previews.listen(self, source, reader)

    def spectrogram(self, sound: Sound) -> Tensor:
        """(channels, samples) -> (≤ 100 seconds, 80): the result without its padding."""
        heard = math.ceil(sound.waveform.shape[1] / sound.rate / SHIFT)
        return self(sound).T[:heard]


@cache
def whisper_features(seconds: int) -> WhisperFeatureExtractor:
    """The library's feature extractor, cached because making its filters is slow."""
    from transformers import WhisperFeatureExtractor

    return WhisperFeatureExtractor(feature_size=80, chunk_length=seconds)


def mono(waveform: Tensor) -> Tensor:
    """(channels, samples) -> (1, samples): the mean, or a single channel if they cancel out.

    That channel is the first with at least half the power of the loudest one.
    """
    mean = waveform.mean(0, keepdim=True)
    if len(waveform) == 1:
        return mean
    power = waveform.var(1, correction=0)
    if mean.var() >= CANCELLED * power.mean() / len(waveform):
        return mean
    return waveform[int((power >= power.max() / 2).int().argmax())][None]


def resampled(waveform: Tensor, rate: int, wanted: int) -> Tensor:
    """(channels, samples) at another rate.

    Rates without a small common ratio (22254 Hz on old Macintoshes) are rounded inaudibly: an exact filter
    bank would fill gigabytes.
    """
    ratio = Fraction(wanted, rate).limit_denominator(1000)
    return resample(waveform, ratio.denominator, ratio.numerator)
