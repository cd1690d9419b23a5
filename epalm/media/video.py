"""Videos: a few frames of any file -> the tensor that an encoder expects.

recipe = RECIPES["epalm-video-8"]
clip = recipe.open("clip.mp4")  # 8 upright frames and their times; nothing else is converted
pixels = recipe(clip)  # (3, 8, 224, 224)
"""

import random
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import chain
from math import inf
from typing import Any, BinaryIO, Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from av import Packet, VideoFrame
from av.container import InputContainer
from av.error import FFmpegError
from av.video.stream import VideoStream
from PIL import Image
from torch import Tensor

from epalm.config import from_dict
from epalm.errors import EPALMError
from epalm.media.container import MediaSource, decoded, open_container, open_file, track

try:  # the fast reader, which exists for few platforms
    import decord

    decord.logging.set_level(decord.logging.QUIET)
except (ImportError, OSError):
    decord = None

# Where decord's seeks are exact. With others (MPEG streams, MPEG-4 and HEVC with B-frames) it returns other
# frames than asked for.
DECORD_CONTAINERS = ("mov,mp4", "matroska")
DECORD_CODECS = ("h264", "vp8", "vp9")

# Seconds to seek ahead of a frame if a seek leads behind it, which happens in MPEG streams and at damage.
SEEK_MARGINS = (0, 1, 10)

# Frames whose shorter side is at least twice this are reduced by a whole factor: 16 frames of 4K fill 400 MB.
ENOUGH_PIXELS = 768

Choice = Callable[[int, float], list[int]]  # number of frames, frames per second -> indices, in order


@dataclass(frozen=True)
class Clip:
    """Frames of a video.

    Fields:
        frames: (T, H, W, 3) uint8 RGB, upright.
        times: of each frame, in seconds since the video's first frame.
        duration: of the whole video, in seconds.
    """

    frames: np.ndarray
    times: tuple[float, ...]
    duration: float


def open_video(source: MediaSource, frames: int = 8, sampling: str = "middle", seed: int = 0) -> Clip:
    """Read a few frames of a video; only these, and those that they are predicted from, are decoded.

    Args:
        source: a path or the bytes of a file.
        frames, sampling, seed: which frames, see `frame_indices`.

    Returns:
        Always `frames` frames: a shorter video's last one is repeated. Damaged and missing ones are replaced
        by neighbours. Frames of 1536 and more pixels on the shorter side are reduced, to bound the memory.

    Raises:
        EPALMError: missing, empty or damaged file, a folder, not a video, or a video without pictures.
    """

    def choose(length: int, rate: float) -> list[int]:
        return frame_indices(length, frames, sampling, rate, seed)

    with open_file(source) as (file, name):
        if not decord_reads(file, name) or decord is None or isinstance(source, bytes):
            return read_with_av(file, name, choose)
        damage = (
            decord.DECORDError,
            decord.DECORDLimitReachedError,
            RuntimeError,
            StopIteration,
            AssertionError,
        )
        try:
            return read_with_decord(str(source), choose)
        except damage:
            return read_with_av(file, name, choose)


def frame_indices(length: int, frames: int, sampling: str, rate: float, seed: int = 0) -> list[int]:
    """Which `frames` of a video's `length` frames are seen, in order; the original's arithmetic.

    Args:
        sampling: "middle" and "rand" take one frame of each of `frames` equal intervals: its middle, or one
            at random, as in training; "uniform" (not in the original) spreads them from the first frame to
            the last; "fpsX" takes the middle of every 1/X seconds from the start, at most `frames` of them.
        rate: frames per second of the video, for "fpsX".
        seed: of "rand".

    Returns:
        Where the video or the time is too short for `frames` different ones, the last is repeated.
    """
    check_sampling(sampling)
    if sampling.startswith("fps"):
        indices = fps_indices(length, float(sampling[3:]), rate)[:frames] or [length // 2]
    elif sampling == "uniform":
        indices = np.linspace(0, length - 1, min(frames, length)).round().astype(int).tolist()
    else:
        edges = np.linspace(0, length, min(frames, length) + 1).astype(int).tolist()
        starts, ends = edges[:-1], [edge - 1 for edge in edges[1:]]
        if sampling == "middle":
            indices = [(start + end) // 2 for start, end in zip(starts, ends, strict=True)]
        elif all(start < end for start, end in zip(starts, ends, strict=True)):
            chance = random.Random(seed)  # the interval's last frame is never drawn
            indices = [chance.choice(range(start, end)) for start, end in zip(starts, ends, strict=True)]
        else:  # some interval has one frame only
            indices = sorted(np.random.RandomState(seed).permutation(length)[: len(starts)].tolist())
    return indices + indices[-1:] * (frames - len(indices))


def check_sampling(sampling: str) -> None:
    """Refuse what `frame_indices` does not know with an EPALMError."""
    if not re.fullmatch(r"middle|rand|uniform|fps(?=.*[1-9])\d+(\.\d+)?", sampling):
        raise EPALMError(
            f"sampling is {sampling!r} for a video: it must be middle, rand, uniform, or fps and a number "
            "(fps0.5: every two seconds)."
        )


def fps_indices(length: int, wanted: float, rate: float) -> list[int]:
    """The frame in the middle of every 1/`wanted` seconds; none for a video shorter than half of that."""
    step = 1 / wanted
    seconds = np.arange(step / 2, length / rate + step / 2, step)
    return [index for index in np.around(seconds * rate).astype(int).tolist() if index < length]


# ---------------------------------------------------------------- reading


def decord_reads(file: BinaryIO, name: str) -> bool:
    """Whether decord can be trusted with a video: where its seeks are exact, and where the frames need not be
    turned, as those of portraits recorded by phones are.

    Raises:
        EPALMError: the file is no video, or nothing of it can be decoded.
    """
    with open_container(file, name, "a video") as container:
        stream, frames = pictures(container, name)
        for frame in frames:
            container_fits = container.format.name.startswith(DECORD_CONTAINERS)
            return container_fits and stream.codec.canonical_name in DECORD_CODECS and frame.rotation == 0
    raise no_picture(name)


def pictures(container: InputContainer, name: str) -> tuple[VideoStream, Iterator[VideoFrame]]:
    """The video track, and its frames from the current position on; EPALMError where there is none."""
    stream = track(container, "video")
    if not isinstance(stream, VideoStream):
        raise EPALMError(f"{name} has no pictures: it is a sound file, or its video cannot be read.")
    return stream, cast(Iterator[VideoFrame], decoded(container, stream))


def no_picture(name: str) -> EPALMError:
    return EPALMError(f"{name} has no picture that can be read: it is damaged, incomplete or has no frames.")


def read_with_decord(path: str, choose: Choice) -> Clip:
    """Read by frame number. From a path only: damaged files in memory make decord crash."""
    reader = decord.VideoReader(
        path, fault_tol=1
    )  # else damage is repaired with copies that have false times
    indices = choose(len(reader), reader.get_avg_fps())
    spans = reader.get_frame_timestamp(range(len(reader)))  # (length, 2): start and end
    frames = {index: reduce(reader[index].asnumpy()) for index in sorted(set(indices))}
    first = float(spans[0, 0])
    times = tuple(float(spans[index, 0]) - first for index in indices)
    return Clip(np.stack([frames[index] for index in indices]), times, float(spans.max()) - first)


def read_with_av(file: BinaryIO, name: str, choose: Choice) -> Clip:
    """Read by time stamp: list those of all frames without decoding, then seek to the chosen ones."""
    with open_container(file, name, "a video") as container:
        stream, _ = pictures(container, name)
        rate = float(stream.average_rate or stream.guessed_rate or 25)
        unit = float(stream.time_base or 1 / rate)
        size = stream.width, stream.height  # of the first frames; later ones may differ
        listed, span = list_frames(container.demux(stream))
    if not listed:
        raise no_picture(name)
    if timed := all(stamp is not None for stamp, _ in listed):
        stamps = sorted(stamp for stamp, _ in listed if stamp is not None)
        keys = sorted(stamp for stamp, alone in listed if alone and stamp is not None) or stamps[:1]
    else:  # a bare stream: its frames have numbers only, and are decoded from the first one on
        stamps, keys, span, unit = list(range(len(listed))), [0], 1, 1 / rate
    indices = choose(len(stamps), rate)

    found: dict[int, tuple[float, np.ndarray]] = {}  # index -> time stamp, pixels
    with open_container(file, name, "a video") as container:
        stream, decoding = pictures(container, name)
        stream.thread_type = "AUTO"
        frames: Iterator[tuple[float, VideoFrame]] = enumerate(decoding)
        frame, position = None, -inf
        for index in sorted(set(indices)):
            target = stamps[index]
            key = keys[max(0, bisect_right(keys, target) - 1)]
            if timed and position < key:  # else it is cheaper to go on
                frames = frames_from(container, name, key, unit)
            while position < target and (later := next(frames, None)):
                position, frame = later
            if frame is not None:  # where nothing more can be decoded, the last one stands in
                found[index] = (position, upright(frame, *size))
    if not found:
        raise no_picture(name)
    nearest = [min(found, key=lambda have: abs(have - index)) for index in indices]
    times = tuple((found[index][0] - stamps[0]) * unit for index in nearest)
    duration = (stamps[-1] - stamps[0] + span) * unit
    return Clip(np.stack([found[index][1] for index in nearest]), times, duration)


def list_frames(packets: Iterator[Packet]) -> tuple[list[tuple[int | None, bool]], int]:
    """Time stamp of every frame and whether it can be decoded alone; and how long the last one is shown."""
    frames: list[tuple[int | None, bool]] = []
    span = 0
    while True:
        try:
            packet = next(packets)
        except (StopIteration, FFmpegError):  # the latter where the file breaks off
            return frames, span
        if packet.size and not packet.is_corrupt and not packet.is_discard:
            frames.append((packet.pts, packet.is_keyframe))
            span = packet.duration or 0


def frames_from(
    container: InputContainer, name: str, key: int, unit: float
) -> Iterator[tuple[float, VideoFrame]]:
    """Time stamps and frames from `key` on or from shortly before it; time stamps count `unit` seconds."""
    for margin in SEEK_MARGINS:
        with suppress(FFmpegError):  # where seeking fails, reading on gets there, too
            container.seek(key - round(margin / unit), stream=track(container, "video"))
        frames = pictures(container, name)[1]
        first = next(frames, None)
        if first is not None and (first.pts is None or first.pts <= key):
            break
    for frame in chain(() if first is None else (first,), frames):
        yield -inf if frame.pts is None else frame.pts, frame


def upright(frame: VideoFrame, width: int, height: int) -> np.ndarray:
    """A decoded frame of any format -> (H, W, 3) uint8 of bounded size, turned as the file says."""
    pixels = frame.to_ndarray(format="rgb24", width=width, height=height)
    return reduce(np.rot90(pixels, round(frame.rotation / 90)))


def reduce(pixels: np.ndarray) -> np.ndarray:
    """Average whole blocks of pixels of very large frames."""
    factor = min(pixels.shape[:2]) // ENOUGH_PIXELS
    return np.asarray(Image.fromarray(pixels).reduce(factor)) if factor > 1 else pixels


# ---------------------------------------------------------------- recipes


@dataclass(frozen=True)
class VideoRecipe:
    """How a video becomes an encoder's input; stored in the adapter's config.json as a plain dict.

    Fields:
        name: "epalm-video" is the original's evaluation transform.
        size: both sides of the result, in pixels; the ratio is not kept.
        frames: number of frames.
        sampling: "middle", "rand", "uniform" or "fpsX", see `frame_indices`.
        interpolation: "bicubic" or "bilinear".
        antialias: False as in the original, where a smaller frame is made of single pixels of the large one.
        mean, std: per RGB channel, for values in 0…1.
    """

    name: str
    size: int
    frames: int
    sampling: str
    interpolation: Literal["bicubic", "bilinear"]
    antialias: bool
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        check_sampling(self.sampling)

    def open(self, source: MediaSource, seed: int = 0) -> Clip:
        """The frames that this recipe is for; raises as `open_video`."""
        return open_video(source, self.frames, self.sampling, seed)

    def __call__(self, clip: Clip) -> Tensor:
        """Frames -> (3, T, size, size) float32."""
        size = self.size, self.size
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (self.mean, self.std))
        frames = []
        for pixels in clip.frames:  # one by one: as floats, the frames of a clip would fill gigabytes
            frame = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None].float()
            frame = F.interpolate(frame, size, mode=self.interpolation, antialias=self.antialias)
            frame = frame.clamp(0, 255).round() / 255  # the original resizes eight-bit frames
            frames.append((frame[0] - mean) / std)  # (3, size, size)
        return torch.stack(frames, dim=1)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "VideoRecipe":
        """The inverse of to_dict, also after a round trip through JSON.

        Raises:
            EPALMError: a field is missing, unknown or has a value that is not allowed.
        """
        return from_dict(cls, dict(values), "The video recipe")


def epalm(frames: int) -> VideoRecipe:
    """The original's evaluation transform, but with fixed frames: the original draws them at random."""
    return VideoRecipe(
        name="epalm-video",
        size=224,
        frames=frames,
        sampling="middle",
        interpolation="bicubic",
        antialias=False,
        mean=(0.48145466, 0.4578275, 0.40821073),
        std=(0.26862954, 0.26130258, 0.27577711),
    )


STARTER_MEAN, STARTER_STD = (127 / 255,) * 3, (128 / 255,) * 3  # as for pictures

RECIPES = {
    "epalm-video-8": epalm(8),  # question answering
    "epalm-video-16": epalm(16),  # captions
    # For the starter's image encoder on every frame: smaller frames than its pictures, for there are eight.
    "starter": VideoRecipe("starter", 192, 8, "uniform", "bicubic", True, STARTER_MEAN, STARTER_STD),
}
