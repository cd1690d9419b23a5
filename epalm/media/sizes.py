"""The decoded size of a file according to its header, so that a server can refuse large files unread."""

from __future__ import annotations

import warnings
from typing import BinaryIO, NamedTuple

from PIL import Image

from epalm.errors import EPALMError
from epalm.media.container import MediaSource, Modality, open_container, open_file
from epalm.media.image import MAX_PIXELS


class Size(NamedTuple):
    """Pixels of a picture or of one frame, and duration in seconds; 0 if there are none or it is unknown."""

    pixels: int
    seconds: float


def size_of(source: MediaSource, modality: Modality) -> Size:
    """The size of a file; 0 if its header cannot be read, since reading the file then reports why."""
    try:
        with open_file(source) as (file, name):
            if modality == "image":
                return Size(pixels_of(file), 0.0)
            with open_container(file, name, "a file") as opened:
                frames = [stream.width * stream.height for stream in opened.streams.video]
                pixels = max(frames, default=0) if modality == "video" else 0
                return Size(pixels, (opened.duration or 0) / 1_000_000)
    except (EPALMError, OSError, SyntaxError, ValueError, TypeError, OverflowError):
        return Size(0, 0.0)


def pixels_of(file: BinaryIO) -> int:
    """The pixels of a picture; more than MAX_PIXELS if Pillow considers it a decompression bomb."""
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(file) as image:
            return image.width * image.height
    except Image.DecompressionBombError:
        return MAX_PIXELS + 1
