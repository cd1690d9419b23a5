"""How every file is opened, how its kind is recognised by its content, and how FFmpeg reads it.

modality_of("holiday.bin")  # "video"

with open_file("dog.mp3") as (file, name):  # any exception raised in here becomes an EPALMError
    ...
"""

import io
import logging
import os
import select
import stat
import time
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal, cast

import av
import numpy as np
import pillow_heif
import soundfile
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Disposition, Stream
from av.video.stream import VideoStream
from PIL import Image

from epalm.errors import EPALMError, reason

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

log = logging.getLogger(__name__)

Modality = Literal["image", "video", "audio"]
MediaSource = str | Path | bytes  # a path, or the bytes of a file
Source = MediaSource | Image.Image | np.ndarray  # or a picture in memory

# The containers that we read. Left out on purpose: playlists, which make FFmpeg open other files and URLs,
# and formats that accept any text file as a video.
CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,mpegts,mpeg,mpegvideo,h264,hevc,m4v,asf,ogg,mxf,rm,dv,ivf,"
    "wav,w64,flac,mp3,aac,ac3,eac3,aiff,au,caf,amr,ape,wv,tta,dts"
)

# Formats that Pillow decodes with its own libraries, and HEIF (pillow-heif). Left out on purpose: EPS, which
# starts Ghostscript, and formats that need other programs.
PICTURES = (
    "AVIF", "BLP", "BMP", "CUR", "DCX", "DDS", "DIB", "GIF", "HEIF", "ICNS", "ICO", "IM", "JPEG", "JPEG2000",
    "MPO", "MSP", "PCX", "PIXAR", "PNG", "PPM", "PSD", "QOI", "SGI", "SPIDER", "SUN", "TGA", "TIFF", "WEBP",
    "XBM", "XPM",
)  # fmt: skip

pillow_heif.register_heif_opener()  # photos of phones
Image.init()
FORMATS = [name for name in PICTURES if name in Image.OPEN]  # those that this installation supports

# First bytes that mark a file as an image even if it is damaged or Pillow lacks its codec.
IMAGE_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"II*\0", b"MM\0*")
IMAGE_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1")  # in an ISO base file

# Files that people mistake for pictures, by their first bytes.
NO_PICTURES = {
    b"%!PS": "a PostScript file",
    b"\xc5\xd0\xd3\xc6": "a PostScript file",
    b"%PDF": "a PDF document",
    b"<svg": "an SVG drawing",
    b"\xff\x0a": "a JPEG XL picture",
    b"\0\0\0\x0cJXL ": "a JPEG XL picture",
}

SILENCE = 60  # seconds to wait for a pipe that sends nothing
PIPED = 1 << 30  # most bytes to read from a pipe

av.logging.set_level(None)  # damage is reported in one sentence, not on the terminal


# ---------------------------------------------------------------- opening


class GuardedFile(io.RawIOBase):
    """A file for libraries that crash when a read fails: a failed read looks like the end of the file.

    The error is kept in `failure`. The file has no name, so libraries must look at its content.
    """

    def __init__(self, file: io.FileIO) -> None:
        self.file = file
        self.failure: OSError | None = None

    def readinto(self, buffer: "WriteableBuffer") -> int:
        try:
            return self.file.readinto(buffer) or 0
        except OSError as error:
            self.failure = error
            return 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        self.file.close()
        super().close()


@contextmanager
def open_file(source: MediaSource) -> Iterator[tuple[BinaryIO, str]]:
    """Open a file that is not empty; yields it with the name to use in error messages.

    This is the boundary between the libraries that read files and everything else: any exception inside the
    `with` block leaves it as an EPALMError. Its traceback goes to the log at level INFO.

    Raises:
        EPALMError: the file is missing, empty, damaged, a folder, or cannot be read.
    """
    name = name_of(source)
    source = whole(source)
    guard: GuardedFile | None = None
    file: BinaryIO
    if isinstance(source, bytes):
        file = io.BytesIO(source)
    else:
        guard = opened(source, name)
        file = io.BufferedReader(guard)
    try:
        with file:
            begun = bool(file.read(1))
            if begun:
                file.seek(0)
                yield file, name
            if guard and guard.failure:
                raise guard.failure
            if not begun:
                raise EPALMError(f"{name} is empty.")
    except Exception as error:
        raise sentence_about(name, guard.failure if guard and guard.failure else error) from error


def name_of(source: MediaSource) -> str:
    """The name of a file in error messages.

    Raises:
        EPALMError: it is neither a path nor bytes.
    """
    if not isinstance(source, str | os.PathLike | bytes):
        raise EPALMError(f"A {type(source).__name__} is not one file: give a path, or the bytes of a file.")
    return "The file" if isinstance(source, bytes) else str(source)


def opened(path: str | Path, name: str) -> GuardedFile:
    try:
        return GuardedFile(io.FileIO(path))
    except FileNotFoundError as error:
        raise EPALMError(f"{name} does not exist.") from error
    except IsADirectoryError as error:
        raise EPALMError(f"{name} is a folder, not a file.") from error
    except (OSError, ValueError) as error:  # ValueError: the path has a null character
        raise EPALMError(f"{name} cannot be opened: {why(error)}.") from error


def sentence_about(name: str, error: Exception) -> EPALMError:
    """The message for a user when reading a file failed."""
    if isinstance(error, EPALMError):
        return error
    log.info("%s could not be read", name, exc_info=error)
    if isinstance(error, MemoryError):
        return EPALMError(f"{name} needs more memory than is available: make it smaller or shorter.")
    if isinstance(error, OSError) and error.errno and not isinstance(error, FFmpegError):
        return EPALMError(
            f"{name} cannot be read: {why(error)}. Copy it to another disk or download it again."
        )
    return EPALMError(f"{name} cannot be read: it is damaged or its format is not supported ({why(error)}).")


def why(error: Exception) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else reason(error)


def whole(source: MediaSource) -> MediaSource:
    """The source itself, or all bytes of a pipe, which can be read only once: `<(curl …)`, /dev/stdin.

    Raises:
        EPALMError: the pipe sends nothing or too much, or the path is a device.
    """
    if isinstance(source, bytes):
        return source
    try:
        mode = os.stat(source).st_mode
    except (OSError, ValueError):
        return source  # opening it will report the error
    if stat.S_ISFIFO(mode):
        return from_pipe(source)
    if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) or stat.S_ISSOCK(mode):
        raise EPALMError(f"{source} is a device, not a file or a pipe.")
    return source


def from_pipe(path: str | Path) -> bytes:
    """Everything that a pipe sends; gives up on a pipe that stays silent."""
    parts: list[bytes] = []
    size, since = 0, time.monotonic()
    try:
        pipe = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        raise EPALMError(f"{path} cannot be opened: {error.strerror}.") from error
    try:
        while size <= PIPED:
            select.select([pipe], [], [], 1)
            try:
                part = os.read(pipe, 1 << 20)
            except BlockingIOError:
                part = None
            if part:
                parts.append(part)
                size, since = size + len(part), time.monotonic()
            elif part == b"" and (parts or not fifo_without_writer(path)):
                return b"".join(parts)
            elif time.monotonic() - since > SILENCE:
                raise EPALMError(f"The pipe {path} has sent nothing for {SILENCE} seconds.")
            elif part == b"":
                time.sleep(0.05)
    except OSError as error:
        raise EPALMError(f"{path} cannot be read: {error.strerror}.") from error
    finally:
        os.close(pipe)
    raise EPALMError(f"The pipe {path} sends more than {PIPED >> 20} MiB: save the data as a file first.")


def fifo_without_writer(path: str | Path) -> bool:
    """Whether a pipe is a named one, whose writer may open it after its reader.

    Pipes made by a shell (/dev/fd/63, /dev/stdin) already have a writer; they end when it closes them.
    """
    return not os.path.realpath(path).startswith(("/dev/", "/proc/"))


# ---------------------------------------------------------------- what FFmpeg reads


@contextmanager
def open_container(file: BinaryIO, name: str, kind: str) -> Iterator[InputContainer]:
    """The tracks of a video or sound file.

    Args:
        kind: what the file should be, for the error message.

    Raises:
        EPALMError: the format is not one of CONTAINERS, or the file is damaged before its first track.
    """
    file.seek(0)
    # Not `options`: those also apply to streams, and crash on MPEG streams, whose tracks are found late.
    options = {"format_whitelist": CONTAINERS}
    try:  # a file object rather than its path, so that FFmpeg ignores the name
        container = av.open(file, "r", container_options=options, metadata_errors="replace")
    except (FFmpegError, ValueError) as error:
        raise EPALMError(f"{name} is not {kind} that can be read, or it is damaged or incomplete.") from error
    with container:
        yield container


def track(container: InputContainer, kind: Literal["video", "audio"]) -> Stream | None:
    """The first video or audio track with a known codec; a song's cover picture is not a video."""
    pictures = Disposition.attached_pic | Disposition.timed_thumbnails
    for stream in container.streams:
        if stream.type == kind and stream.codec_context is not None and not stream.disposition & pictures:
            return stream
    return None


def decoded(
    container: InputContainer, stream: Stream, wanted: Collection[float] = ()
) -> Iterator[av.VideoFrame | av.AudioFrame]:
    """Frames from the current position on; skips damaged packets and stops at a damaged container.

    Args:
        wanted: time stamps of the frames that are needed; other frames are left out if no frame is predicted
            from them. Empty = all frames are needed.
    """
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except (StopIteration, FFmpegError):
            return
        if isinstance(stream, VideoStream):
            all_needed = not wanted or packet.pts is None or packet.pts in wanted
            stream.codec_context.skip_frame = "DEFAULT" if all_needed else "NONREF"
        try:
            frames = packet.decode()
        except FFmpegError:
            continue
        yield from cast(list[av.VideoFrame | av.AudioFrame], frames)


# ---------------------------------------------------------------- what a file is


def modality_of(source: Source) -> Modality:
    """The kind of a file by its content. Animated images are images; a video without pictures is audio.

    Raises:
        EPALMError: the file is missing, empty, a folder, or none of the three kinds.
    """
    if isinstance(source, Image.Image | np.ndarray):
        return "image"
    with open_file(source) as (file, name):
        if is_image(file):
            return "image"
        try:
            with open_container(file, name, "a file") as container:
                if track(container, "video"):
                    return "video"
                if track(container, "audio"):
                    return "audio"
        except EPALMError:
            if is_sound(file):
                return "audio"
        neither = f"{name} is neither an image nor a video nor a sound that can be read"
        if kind := what_else(file):
            raise EPALMError(f"{neither}, but {kind}: save it as PNG or JPEG.")
        raise EPALMError(f"{neither}, or it is damaged.")


def is_image(file: BinaryIO) -> bool:
    """Whether a file begins like an image; its pixels are not decoded."""
    file.seek(0)
    head = file.read(16)
    if head.startswith(IMAGE_MAGIC) or (head[4:8] == b"ftyp" and head[8:12] in IMAGE_BRANDS):
        return True
    file.seek(0)
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(file, formats=FORMATS):
            return True
    except Image.DecompressionBombError:
        return True
    except Exception:  # Pillow raises all kinds of errors on files that only begin like an image
        return False


def what_else(file: BinaryIO) -> str | None:
    """What a file is that looks like a picture but is not supported; None if unknown."""
    file.seek(0)
    head = file.read(1024).removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\r\n")
    for magic, kind in NO_PICTURES.items():
        if head.startswith(magic):
            return kind
    return "an SVG drawing" if head.startswith((b"<?xml", b"<!DOCTYPE")) and b"<svg" in head else None


def is_mp3(file: BinaryIO) -> bool:
    """Whether a file begins like an MP3. FFmpeg reads those: libsndfile prints its errors to the terminal."""
    file.seek(0)
    head = file.read(3)
    file.seek(0)
    return head == b"ID3" or (head[:1] == b"\xff" and head[1:2] >= b"\xe0")


def is_sound(file: BinaryIO) -> bool:
    """Whether libsndfile knows the format; it knows some that FFmpeg does not."""
    if is_mp3(file):
        return False
    try:
        return soundfile.info(file).channels > 0
    except Exception:  # damaged headers also raise TypeError and the like
        return False
