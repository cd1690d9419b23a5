"""The one door to files: how any file is opened, what kind it is by its content, and how FFmpeg reads it.

modality_of("holiday.bin")  # "video"

with open_file("dog.mp3") as (file, name):  # whatever a library raises in here becomes one sentence
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

# The containers that are read. Absent on purpose: playlists, which make the reader open other files and
# addresses, and the formats that take any text for a video.
CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,mpegts,mpeg,mpegvideo,h264,hevc,m4v,asf,ogg,mxf,rm,dv,ivf,"
    "wav,w64,flac,mp3,aac,ac3,eac3,aiff,au,caf,amr,ape,wv,tta,dts"
)

# Pillow's formats that are decoded by Pillow and its own libraries. Absent on purpose: EPS, for which it
# starts Ghostscript, and formats that only other programs decode. HEIF is pillow-heif's.
PICTURES = (
    "AVIF", "BLP", "BMP", "CUR", "DCX", "DDS", "DIB", "GIF", "HEIF", "ICNS", "ICO", "IM", "JPEG", "JPEG2000",
    "MPO", "MSP", "PCX", "PIXAR", "PNG", "PPM", "PSD", "QOI", "SGI", "SPIDER", "SUN", "TGA", "TIFF", "WEBP",
    "XBM", "XPM",
)  # fmt: skip

pillow_heif.register_heif_opener()  # what phones store
Image.init()
FORMATS = [name for name in PICTURES if name in Image.OPEN]  # what this installation has of them

# How a file begins that is an image even where it is damaged or has a codec that Pillow lacks.
IMAGE_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"II*\0", b"MM\0*")
IMAGE_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1")  # in an ISO base file

# What people take for a picture, by its first bytes, and what to do with it.
NO_PICTURES = {
    b"%!PS": "a PostScript file",
    b"\xc5\xd0\xd3\xc6": "a PostScript file",
    b"%PDF": "a PDF document",
    b"<svg": "an SVG drawing",
    b"\xff\x0a": "a JPEG XL picture",
    b"\0\0\0\x0cJXL ": "a JPEG XL picture",
}

SILENCE = 60  # seconds after which a pipe that sends nothing is given up
PIPED = 1 << 30  # bytes that are read from a pipe at most

av.logging.set_level(None)  # damage is reported in one sentence, not on the terminal


# ---------------------------------------------------------------- opening


class GuardedFile(io.RawIOBase):
    """A file for libraries that do not survive a failing read, which they meet as the file's end.

    It has no name, so that none of them concludes anything from it. `failure` keeps the error.
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
    """A file that is not empty, and the name that begins the sentence of an error.

    This is the boundary between the libraries that read files and everything else: whatever they raise
    inside the `with` block leaves it as an EPALMError. Its traceback goes to the log at level INFO.

    Raises:
        EPALMError: missing, empty, a folder, not readable by this user or at all, or damaged.
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
    """How an error's sentence calls a file."""
    return "The file" if isinstance(source, bytes) else str(source)


def opened(path: str | Path, name: str) -> GuardedFile:
    try:
        return GuardedFile(io.FileIO(path))
    except FileNotFoundError as error:
        raise EPALMError(f"{name} does not exist.") from error
    except IsADirectoryError as error:
        raise EPALMError(f"{name} is a folder, not a file.") from error
    except (OSError, ValueError) as error:  # the latter where a path has a null character
        raise EPALMError(f"{name} cannot be opened: {why(error)}.") from error


def sentence_about(name: str, error: Exception) -> EPALMError:
    """What a user is told of an error while a file is read."""
    if isinstance(error, EPALMError):
        return error
    log.info("%s could not be read", name, exc_info=error)
    if isinstance(error, MemoryError):
        return EPALMError(f"{name} needs more memory than there is: make it smaller or shorter.")
    if isinstance(error, OSError) and error.errno and not isinstance(error, FFmpegError):
        return EPALMError(f"{name} cannot be read: {why(error)}. Copy it to another disk, or fetch it again.")
    return EPALMError(f"{name} cannot be read: it is damaged, or of a kind that is not known ({why(error)}).")


def why(error: Exception) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else reason(error)


def whole(source: MediaSource) -> MediaSource:
    """The source, or the bytes of a pipe, which can be read only once: `<(curl …)`, /dev/stdin.

    Raises:
        EPALMError: nothing comes through the pipe, or too much, or the path is a device.
    """
    if isinstance(source, bytes):
        return source
    try:
        mode = os.stat(source).st_mode
    except (OSError, ValueError):
        return source  # whose opening says what is wrong
    if stat.S_ISFIFO(mode):
        return from_pipe(source)
    if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) or stat.S_ISSOCK(mode):
        raise EPALMError(f"{source} is a device, not a file or a pipe.")
    return source


def from_pipe(path: str | Path) -> bytes:
    """All that comes through a pipe; a pipe without a writer does not hold us up for ever."""
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
                raise EPALMError(f"Nothing has come through the pipe {path} for {SILENCE} seconds.")
            elif part == b"":
                time.sleep(0.05)
    except OSError as error:
        raise EPALMError(f"{path} cannot be read: {error.strerror}.") from error
    finally:
        os.close(pipe)
    raise EPALMError(f"More than {PIPED >> 20} MiB come through the pipe {path}: save them as a file first.")


def fifo_without_writer(path: str | Path) -> bool:
    """Whether a pipe has a place in the file system, where its writer may come later than its reader.

    Pipes of a shell, /dev/fd/63 and /dev/stdin, were there before us and end when their writer has gone.
    """
    return not os.path.realpath(path).startswith(("/dev/", "/proc/"))


# ---------------------------------------------------------------- what FFmpeg reads


@contextmanager
def open_container(file: BinaryIO, name: str, kind: str) -> Iterator[InputContainer]:
    """The tracks of a video or sound file.

    Args:
        kind: what the file should be, for the sentence of an error.

    Raises:
        EPALMError: the file is none of CONTAINERS, or damaged before its first track.
    """
    file.seek(0)
    # Not `options`, which are for the streams, too: MPEG streams, whose tracks come late, make that crash.
    options = {"format_whitelist": CONTAINERS}
    try:  # a file object rather than its path: nothing is concluded from the name
        container = av.open(file, "r", container_options=options, metadata_errors="replace")
    except (FFmpegError, ValueError) as error:
        raise EPALMError(f"{name} is not {kind} that can be read, or it is damaged or incomplete.") from error
    with container:
        yield container


def track(container: InputContainer, kind: Literal["video", "audio"]) -> Stream | None:
    """The first video or audio track with a known codec; the cover picture of a song is no video."""
    pictures = Disposition.attached_pic | Disposition.timed_thumbnails
    for stream in container.streams:
        if stream.type == kind and stream.codec_context is not None and not stream.disposition & pictures:
            return stream
    return None


def decoded(
    container: InputContainer, stream: Stream, wanted: Collection[float] = ()
) -> Iterator[av.VideoFrame | av.AudioFrame]:
    """Frames from the current position on. Damaged packets are passed over; a damaged container ends them.

    Args:
        wanted: time stamps of those that are needed; of the others, those from which no frame is predicted
            are left out. Empty for all.
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
    """What a file is, whatever its name. Animated images are images; a film without pictures is audio.

    Raises:
        EPALMError: missing or empty file, a folder, or none of the three.
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
    except Exception:  # Pillow's readers raise many types on files that only begin like an image
        return False


def what_else(file: BinaryIO) -> str | None:
    """What a file is that people take for a picture, though it is not opened as one."""
    file.seek(0)
    head = file.read(1024).removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\r\n")
    for magic, kind in NO_PICTURES.items():
        if head.startswith(magic):
            return kind
    return "an SVG drawing" if head.startswith((b"<?xml", b"<!DOCTYPE")) and b"<svg" in head else None


def is_mp3(file: BinaryIO) -> bool:
    """Whether a file begins like an MP3. Those are FFmpeg's: of damage, libsndfile writes to the terminal."""
    file.seek(0)
    head = file.read(3)
    file.seek(0)
    return head == b"ID3" or (head[:1] == b"\xff" and head[1:2] >= b"\xe0")


def is_sound(file: BinaryIO) -> bool:
    """Whether libsndfile knows the format; it has some that FFmpeg lacks."""
    if is_mp3(file):
        return False
    try:
        return soundfile.info(file).channels > 0
    except Exception:  # it takes some damaged headers for programming errors
        return False
