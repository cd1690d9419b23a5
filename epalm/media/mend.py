"""Repairs for picture files that are slightly damaged but that every browser shows.

clean_png      drops chunks that do not affect the picture: megabytes of text, colour profiles, notes with a
               wrong checksum
complete_jpeg  fills in the last few bytes
"""

import random
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO

import numpy as np
from PIL import Image

PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"

# Chunks that change how a picture looks. Pillow reads the orientation from EXIF data and from two texts.
PICTURE = (b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"eXIf")
ANCILLARY = 0x20  # bit of a chunk's name: the chunk is optional
TURNS = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0")
MAX_TEXT = 1 << 18  # bytes of such a text

MISSING = 0.1  # largest share of a picture that may be missing at its end
MISSING_BLOCKS = 4  # or this many blocks of pixels, a larger share of a tiny picture
TINY = 4096  # bytes; in smaller files a few bytes can be a whole pass of a progressive picture
SMALL_CHANGE = 8  # of 255: pixels that differ by less count as equal
BLOCK = 16  # side of the blocks that a JPEG encodes, in pixels

END_OF_IMAGE = b"\xff\xd9"
START_OF_FRAME = (*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0))
START_OF_SCAN, PROGRESSIVE = 0xDA, 0xC2
WITHOUT_LENGTH = (0x01, *range(0xD0, 0xDA))  # markers


def is_png(file: BinaryIO) -> bool:
    file.seek(0)
    return file.read(len(PNG)) == PNG


def is_jpeg(file: BinaryIO) -> bool:
    file.seek(0)
    return file.read(len(JPEG)) == JPEG


# ---------------------------------------------------------------- PNG


def clean_png(file: BinaryIO, most: int) -> bytes | None:
    """A PNG file reduced to what its first picture needs; None if that exceeds `most` bytes.

    Required chunks are kept unchanged, even with a wrong checksum: that is real damage.
    """
    kept, size = [PNG], len(PNG)
    for kind, body, checksum in chunks(file, most):
        if kind[0] & ANCILLARY and not wanted(kind, body, checksum):
            continue
        size += len(body) + 12
        if size > most:
            return None
        kept += [struct.pack(">I", len(body)), kind, body, checksum]
        if kind == b"IEND":
            break
    return b"".join(kept)


def chunks(file: BinaryIO, most: int) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Name, content and checksum of every chunk; the last one may be cut off by the file's end."""
    file.seek(len(PNG))
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind[0] & ANCILLARY and length > MAX_TEXT and kind != b"eXIf":
            file.seek(length + 4, 1)
            continue
        body = file.read(min(length, most + 1))
        checksum = file.read(4)
        if len(body) < length or len(checksum) < 4:  # cut off: keep what is there
            checksum = struct.pack(">I", zlib.crc32(kind + body))
        yield kind, body, checksum


def wanted(kind: bytes, body: bytes, checksum: bytes) -> bool:
    """Whether an optional chunk affects how the picture looks."""
    if struct.pack(">I", zlib.crc32(kind + body)) != checksum:
        return False
    if kind in PICTURE:
        return True
    if kind not in (b"iTXt", b"tEXt", b"zTXt") or not body.startswith(TURNS):
        return False
    compressed = kind == b"zTXt" or (kind == b"iTXt" and body[body.index(0) + 1 : body.index(0) + 2] == b"\1")
    return not compressed or kind == b"zTXt" and small(body[body.index(0) + 2 :])


def small(compressed: bytes) -> bool:
    """Whether a compressed text decompresses to at most MAX_TEXT bytes."""
    inflate = zlib.decompressobj()
    try:
        inflate.decompress(compressed, MAX_TEXT)
    except zlib.error:
        return False
    return not inflate.unconsumed_tail


# ---------------------------------------------------------------- JPEG


def complete_jpeg(content: bytes, decoded: Callable[[bytes], Image.Image]) -> Image.Image | None:
    """A truncated JPEG as a picture whose last pixels are made up; None if too much is missing.

    The missing part is found by decoding with two different endings: it is where the results differ.

    Args:
        decoded: decodes the bytes of a file; raises if it cannot.
    """
    content = content.rstrip(b"\xff")
    parts, end = segments(content)
    if content.endswith(END_OF_IMAGE) or not last_details(parts, tiny=len(content) < TINY):
        return None
    noise = random.Random(0).choices(range(1, 255), k=4096)
    try:
        plain, other = (decoded(content[:end] + ending + END_OF_IMAGE) for ending in (b"", bytes(noise)))
    except Exception:  # damaged elsewhere, too
        return None
    difference = np.abs(np.asarray(plain).astype(np.int16) - np.asarray(other)).max(-1) > SMALL_CHANGE
    rows, columns = (-(-side // BLOCK) for side in difference.shape)
    padded = np.zeros((rows * BLOCK, columns * BLOCK), bool)
    padded[: difference.shape[0], : difference.shape[1]] = difference
    made_up = padded.reshape(rows, BLOCK, columns, BLOCK).any((1, 3))  # (rows, columns)
    return plain if made_up.sum() <= max(MISSING * made_up.size, MISSING_BLOCKS) else None


def last_details(parts: list[tuple[int, bytes]], tiny: bool) -> bool:
    """Whether a JPEG reaches its finest details, which a progressive one stores in its last passes.

    In a tiny file a few bytes can be a whole pass, so the last bit of the coefficients may be missing.
    """
    progressive = False
    components: list[int] = []
    reached: dict[int, set[int]] = {}  # component -> coefficients
    for marker, body in parts:
        if marker in START_OF_FRAME and len(body) >= 6:
            progressive = marker == PROGRESSIVE
            components = [body[6 + 3 * i] for i in range(body[5]) if 6 + 3 * i < len(body)]
        elif marker == START_OF_SCAN and body and len(body) >= 4 + 2 * body[0]:
            first, last, bits = body[1 + 2 * body[0] : 4 + 2 * body[0]]
            if bits & 15 <= tiny:
                for i in range(body[0]):
                    reached.setdefault(body[1 + 2 * i], set()).update(range(first, last + 1))
    if not progressive:
        return bool(reached)
    return all(reached.get(component, set()) >= set(range(64)) for component in components)


def segments(content: bytes) -> tuple[list[tuple[int, bytes]], int]:
    """Marker and content of every complete segment of a JPEG, and the offset at which they end."""
    parts: list[tuple[int, bytes]] = []
    place = 2
    while (place := content.find(b"\xff", place)) >= 0:
        marker = content[place + 1] if place + 1 < len(content) else 0xFF
        if marker in (0, 0xFF) or marker in WITHOUT_LENGTH:
            place += 1 if marker == 0xFF else 2
            continue
        length = max(2, int.from_bytes(content[place + 2 : place + 4]))
        if place + 2 + length > len(content):
            return parts, place
        parts.append((marker, content[place + 4 : place + 2 + length]))
        place += 2 + length
    return parts, len(content)
