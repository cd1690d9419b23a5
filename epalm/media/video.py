"""Read videos: a few frames of any file, upright and in order.

clip = open_video("clip.mp4", frames=8)  # 8 frames and their times; decodes no more than these need
"""

from __future__ import annotations

import math
import random
import re
from bisect import bisect_right
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from math import inf
from typing import BinaryIO, NamedTuple, cast

import numpy as np
from av import Packet, VideoFrame
from av.container import InputContainer
from av.error import FFmpegError
from av.video.stream import VideoStream
from PIL import Image

from epalm.errors import EPALMError
from epalm.media.container import MediaSource, decoded, open_container, open_file, track

# Seconds to seek further back if a seek lands after the frame, as happens in MPEG streams and damaged files.
SEEK_MARGINS = (0, 1, 10)

# Time stamps that jump back by more seconds mark a concatenated file; smaller jumps are packet reordering.
RESTART = 0.5

# Frames whose shorter side is at least twice this are downscaled by an integer factor, to save memory.
ENOUGH_PIXELS = 768
MAX_AREA = 6_000_000  # most pixels of a returned frame; matters for very wide ones
MAX_PIXELS = 89_478_485  # most pixels of a frame in the file, as for pictures


@dataclass(frozen=True)
class Clip:
    """Frames of a video.

    Fields:
        frames: (T, H, W, 3) uint8 RGB, upright.
        times: time of each frame, in seconds since the video's first frame.
        duration: length of the whole video, in seconds.
    """

    frames: np.ndarray
    times: tuple[float, ...]
    duration: float


def open_video(source: MediaSource, frames: int = 8, sampling: str = "middle", seed: int = 0) -> Clip:
    """Read a few frames of a video, decoding only these and the frames they depend on.

    Args:
        source: a path or the bytes of a file.
        frames, sampling, seed: which frames, see `frame_indices`.

    Returns:
        Always `frames` frames: if the video is shorter, its last frame is repeated. Damaged and missing
        frames are replaced by their neighbours. Frames whose shorter side has 1536 or more pixels are
        downscaled, to bound memory.

    Raises:
        EPALMError: the file is missing, empty, damaged, a folder, not a video, or has no pictures.
    """
    with open_file(source) as (file, name):
        survey = look_through(file, name)
        indices = frame_indices(len(survey.frames), frames, sampling, survey.rate, seed)
        found = read_frames(file, name, survey, indices)
    if not found:
        raise no_picture(name)
    nearest = [min(found, key=lambda have: abs(have - index)) for index in indices]
    times = tuple(survey.time(found[index][0]) for index in nearest)
    return Clip(np.stack([found[index][1] for index in nearest]), times, survey.duration)


def frame_indices(length: int, frames: int, sampling: str, rate: float, seed: int = 0) -> list[int]:
    """Indices of the `frames` frames to take from a video of `length` frames, computed as in the original.

    Args:
        sampling: "middle" and "rand" split the video into `frames` equal intervals and take the middle frame
            of each, or a random one as in training; "uniform" (not in the original) spreads frames evenly
            from first to last; "fpsX" takes the middle of every 1/X seconds, at most `frames` of them.
        rate: frames per second of the video, for "fpsX".
        seed: for "rand".

    Returns:
        `frames` indices in ascending order; the last is repeated if the video is too short.
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
            rng = random.Random(seed)  # as in the original, never the interval's last frame
            indices = [rng.choice(range(start, end)) for start, end in zip(starts, ends, strict=True)]
        else:  # some intervals have only one frame
            indices = sorted(np.random.RandomState(seed).permutation(length)[: len(starts)].tolist())
    return indices + indices[-1:] * (frames - len(indices))


def check_sampling(sampling: str) -> None:
    """Raise an EPALMError if `frame_indices` does not know this sampling."""
    if not re.fullmatch(r"middle|rand|uniform|fps(?=.*[1-9])\d+(\.\d+)?", sampling):
        raise EPALMError(
            f"sampling is {sampling!r} for a video: it must be middle, rand, uniform, or fps and a number "
            "(fps0.5: one frame every two seconds)."
        )


def fps_indices(length: int, wanted: float, rate: float) -> list[int]:
    """The frame in the middle of every 1/`wanted` seconds; none if the video is shorter than half of that."""
    step = 1 / wanted
    seconds = np.arange(step / 2, length / rate + step / 2, step)
    return [index for index in np.around(seconds * rate).astype(int).tolist() if index < length]


# ---------------------------------------------------------------- what is in a file


class Stamp(NamedTuple):
    """When a frame is shown: its part of a concatenated file, and the time on that part's clock, in units."""

    part: int
    time: float


@dataclass
class Survey:
    """What a video's packets tell about its frames, without decoding.

    Fields:
        rate: frames per second.
        unit: length of one unit of time, in seconds.
        size: width and height of the first frames; later ones may differ.
        frames: stamps of all frames that a player shows, in display order.
        packets: stamps of all frames in file order, each with whether it is a key frame.
        timed: whether the file has time stamps. In a raw stream, frames only have numbers.
        last: units for which the last frame is shown.
    """

    rate: float
    unit: float
    size: tuple[int, int]
    frames: list[Stamp] = field(default_factory=list)
    packets: list[tuple[Stamp, bool]] = field(default_factory=list)
    timed: bool = True
    last: float = 0.0

    @property
    def joined(self) -> bool:
        """Whether the file is a concatenation, in which the clock restarts."""
        return self.frames[-1].part > 0

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.time(self.frames[-1]) + self.last * self.unit

    def time(self, stamp: Stamp) -> float:
        """Seconds since the first frame; parts follow one another without a gap."""
        before, first, last = 0.0, self.frames[0], self.frames[0]
        for frame in self.frames if self.joined else ():
            if frame.part > stamp.part:
                break
            if frame.part > first.part:
                before += last.time - first.time + self.last
                first = frame
            last = frame
        return (before + stamp.time - first.time) * self.unit


def look_through(file: BinaryIO, name: str) -> Survey:
    """List the frames of a video.

    Raises:
        EPALMError: the file is not a video or has no frames.
    """
    with open_container(file, name, "a video") as container:
        stream, _ = pictures(container, name)
        size = stream.width, stream.height
        if stream.width * stream.height > MAX_PIXELS:
            raise EPALMError(f"{name} has frames of {size[0]}×{size[1]} pixels: make them smaller.")
        rate = float(stream.average_rate or stream.guessed_rate or 25)
        unit = float(stream.time_base or 1 / rate)
        survey = Survey(rate, unit, size)
        part, before = 0, -inf
        for packet in packets_of(container, stream):
            clock = packet.pts if packet.dts is None else packet.dts
            if clock is not None:
                part += (clock - before) * unit < -RESTART
                before = clock
            stamp = Stamp(part, -inf if packet.pts is None else packet.pts)
            survey.packets.append((stamp, packet.is_keyframe))
            survey.timed &= packet.pts is not None
            if not packet.is_discard:
                survey.frames.append(stamp)
                survey.last = packet.duration or 0
    if not survey.frames:
        raise no_picture(name)
    if survey.timed:
        survey.frames.sort()
    else:
        survey.frames = [Stamp(0, number) for number in range(len(survey.frames))]
        survey.last, survey.unit = 1, 1 / rate
    return survey


def packets_of(container: InputContainer, stream: VideoStream) -> Iterator[Packet]:
    """The packets that hold frames, as far as the file can be read.

    Where a transport stream was concatenated, FFmpeg marks intact packets as corrupt; those are kept.
    """
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except (StopIteration, FFmpegError):  # FFmpegError: the file is truncated
            return
        if packet.size and not (packet.is_corrupt and container.format.name != "mpegts"):
            yield packet


def pictures(
    container: InputContainer, name: str, wanted: Collection[float] = ()
) -> tuple[VideoStream, Iterator[VideoFrame]]:
    """The video track, and its frames from the current position on; EPALMError if there is none.

    Args:
        wanted: see `decoded`.
    """
    stream = track(container, "video")
    if not isinstance(stream, VideoStream):
        raise EPALMError(f"{name} has no pictures: it is a sound file, or its video cannot be read.")
    return stream, cast(Iterator[VideoFrame], decoded(container, stream, wanted))


def no_picture(name: str) -> EPALMError:
    return EPALMError(f"{name} has no frame that can be read: it is damaged, incomplete or empty.")


# ---------------------------------------------------------------- reading

Found = dict[int, tuple[Stamp, np.ndarray]]  # index of a frame -> when it is shown, (H, W, 3) pixels


def read_frames(file: BinaryIO, name: str, survey: Survey, indices: Sequence[int]) -> Found:
    """Read frames by time stamp; where decoding fails, the last decoded frame stands in."""
    found: Found = {}
    wanted = sorted(set(indices))
    with open_container(file, name, "a video") as container:
        times = {survey.frames[index].time for index in wanted} if survey.timed else set()
        stream, decoding = pictures(container, name, times)
        stream.thread_type = "AUTO"
        if survey.joined:
            for index, picture in read_through(container, stream, survey, wanted):
                found[index] = survey.frames[index], upright(picture, *survey.size)
            return found
        keys = sorted(stamp for stamp, key in survey.packets if key) or survey.frames[:1]
        frames: Iterator[tuple[float, VideoFrame]] = enumerate(decoding)
        frame, position = None, -inf
        for index in wanted:
            target = survey.frames[index]
            key = keys[max(0, bisect_right(keys, target) - 1)]
            if survey.timed and position < key.time:  # otherwise it is cheaper to keep decoding
                frames = frames_from(container, name, int(key.time), survey.unit, times)
            while position < target.time and (later := next(frames, None)):
                position, frame = later
            if frame is not None:
                found[index] = Stamp(0, position), upright(frame, *survey.size)
    return found


def frames_from(
    container: InputContainer, name: str, key: int, unit: float, wanted: Collection[float]
) -> Iterator[tuple[float, VideoFrame]]:
    """Time stamps and frames from `key` on or from shortly before it, at least those that are `wanted`; time
    stamps count `unit` seconds."""
    for margin in SEEK_MARGINS:
        with suppress(FFmpegError):  # if seeking fails, reading on gets there as well
            container.seek(key - round(margin / unit), stream=track(container, "video"))
        frames = pictures(container, name, wanted)[1]
        first = next(frames, None)
        if first is not None and (first.pts is None or first.pts <= key):
            break
    for frame in chain(() if first is None else (first,), frames):
        yield -inf if frame.pts is None else frame.pts, frame


def read_through(
    container: InputContainer, stream: VideoStream, survey: Survey, wanted: Sequence[int]
) -> Iterator[tuple[int, VideoFrame]]:
    """Index and picture of the wanted frames of a concatenated file, in which seeking does not work.

    Reads all packets, but decodes only from the last key frame before each wanted frame up to that frame.
    """
    targets = {survey.frames[index]: index for index in wanted}
    keys = [number for number, (_, key) in enumerate(survey.packets) if key] or [0]
    ends: dict[int, int] = {}  # ranges to decode: first packet -> last packet
    for number, (stamp, _) in enumerate(survey.packets):
        if stamp in targets:
            ends[keys[max(0, bisect_right(keys, number) - 1)]] = number
    end: int | None = None
    for number, packet in enumerate(packets_of(container, stream)):
        end = ends.get(number, end)
        if end is None:
            continue
        frames: list[VideoFrame] = []
        with suppress(FFmpegError):
            frames += cast(list[VideoFrame], packet.decode())
        if number == end:
            with suppress(FFmpegError):
                frames += cast(list[VideoFrame], stream.codec_context.decode(None))
            stream.codec_context.flush_buffers()
            end = None
        for frame in frames:
            stamp = Stamp(survey.packets[number][0].part, -inf if frame.pts is None else frame.pts)
            if stamp in targets:
                yield targets[stamp], frame


def upright(frame: VideoFrame, width: int, height: int) -> np.ndarray:
    """A decoded frame of any format -> (H, W, 3) uint8 of bounded size, rotated as the file says."""
    pixels = frame.to_ndarray(format="rgb24", width=width, height=height)
    return reduce(np.rot90(pixels, round(frame.rotation / 90)))


def reduce(pixels: np.ndarray) -> np.ndarray:
    """Downscale very large frames by averaging blocks of pixels."""
    height, width, _ = pixels.shape
    factor = max(min(height, width) // ENOUGH_PIXELS, math.ceil(math.sqrt(height * width / MAX_AREA)))
    return np.asarray(Image.fromarray(pixels).reduce(factor)) if factor > 1 else pixels
