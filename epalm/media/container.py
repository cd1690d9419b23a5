"""What a media file is, by its content, and the one way in which video and sound files are opened.

modality_of("holiday.bin")  # "video"
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Literal, cast

import av
import numpy as np
import soundfile
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Disposition, Stream
from PIL import Image

from epalm.errors import EPALMError

MediaSource = str | Path | bytes  # a path, or the bytes of a file

# The containers that are read. Absent on purpose: playlists, which make the reader open other files and
# addresses, and the formats that take any text for a video.
CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,mpegts,mpeg,mpegvideo,h264,hevc,m4v,asf,ogg,mxf,rm,dv,ivf,"
    "wav,w64,flac,mp3,aac,ac3,eac3,aiff,au,caf,amr,ape,wv,tta,dts"
)

# How a file begins that is an image even where it is damaged or has a codec that Pillow lacks.
IMAGE_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"II*\0", b"MM\0*")
IMAGE_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"mif1", b"msf1")  # in an ISO base media file

av.logging.set_level(None)  # damage is reported in one sentence, not on the terminal


@contextmanager
def open_file(source: MediaSource) -> Iterator[tuple[BinaryIO, str]]:
    """A file that is not empty, and the name that begins the sentence of an error.

    Raises:
        EPALMError: missing, empty, a folder, or not readable by this user.
    """
    name = "The file" if isinstance(source, bytes) else str(source)
    try:
        file: BinaryIO = BytesIO(source) if isinstance(source, bytes) else open(source, "rb")  # noqa: SIM115
    except FileNotFoundError as error:
        raise EPALMError(f"{name} does not exist.") from error
    except IsADirectoryError as error:
        raise EPALMError(f"{name} is a folder, not a file.") from error
    except OSError as error:
        raise EPALMError(f"{name} cannot be opened: {error.strerror}.") from error
    with file:
        if not file.read(1):
            raise EPALMError(f"{name} is empty.")
        file.seek(0)
        yield file, name


@contextmanager
def open_container(file: BinaryIO, name: str, kind: str) -> Iterator[InputContainer]:
    """The tracks of a video or sound file.

    Args:
        kind: what the file should be, for the sentence of an error.

    Raises:
        EPALMError: the file is none of CONTAINERS, or damaged before its first track.
    """
    file.seek(0)
    try:  # a file object rather than its path: nothing is concluded from the name
        container = av.open(file, "r", options={"format_whitelist": CONTAINERS}, metadata_errors="replace")
    except FFmpegError as error:
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


def decoded(container: InputContainer, stream: Stream) -> Iterator[av.VideoFrame | av.AudioFrame]:
    """Frames from the current position on. Damaged packets are passed over; a damaged container ends them."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except (StopIteration, FFmpegError):
            return
        try:
            frames = packet.decode()
        except FFmpegError:
            continue
        yield from cast(list[av.VideoFrame | av.AudioFrame], frames)


def modality_of(source: MediaSource | Image.Image | np.ndarray) -> Literal["image", "video", "audio"]:
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
        raise EPALMError(
            f"{name} is neither an image nor a video nor a sound that can be read, or it is damaged."
        )


def is_image(file: BinaryIO) -> bool:
    """Whether a file begins like an image; its pixels are not decoded."""
    file.seek(0)
    head = file.read(16)
    if head.startswith(IMAGE_MAGIC) or (head[4:8] == b"ftyp" and head[8:12] in IMAGE_BRANDS):
        return True
    file.seek(0)
    Image.init()
    formats = [name for name in Image.ID if name != "MPEG"]  # it knows how MPEG videos begin, too
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(file, formats=formats):
            return True
    except Image.DecompressionBombError:
        return True
    except Exception:  # Pillow's readers raise many types on files that only begin like an image
        return False


def is_mp3(file: BinaryIO) -> bool:
    """Whether a file begins like an MP3. Those are FFmpeg's: of damage, libsndfile writes to the terminal."""
    file.seek(0)
    head = file.read(3)
    file.seek(0)
    return head == b"ID3" or (head[0] == 0xFF and head[1:2] >= b"\xe0")


def is_sound(file: BinaryIO) -> bool:
    """Whether libsndfile knows the format; it has some that FFmpeg lacks."""
    if is_mp3(file):
        return False
    try:
        return soundfile.info(file).channels > 0
    except soundfile.LibsndfileError:
        return False
