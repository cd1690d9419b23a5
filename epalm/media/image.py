"""Read pictures: any image file -> an upright PIL RGB image.

image = open_image("photo.jpg")
"""

import io
import warnings
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

from epalm.errors import EPALMError
from epalm.media import mend
from epalm.media.container import FORMATS, MediaSource, open_file, what_else

# Larger images are refused. It is the limit above which Pillow warns of decompression bombs.
MAX_PIXELS = Image.MAX_IMAGE_PIXELS or 89_478_485
MAX_BYTES = 1 << 30  # size of the file

# Photos whose shorter side is at least twice this are downscaled by an integer factor while being read.
ENOUGH_PIXELS = 1536

ImageSource = MediaSource | Image.Image | np.ndarray


def open_image(source: ImageSource) -> Image.Image:
    """Read an image as a person sees it: upright, first frame, eight bits, on a white background.

    Args:
        source: a path, the bytes of a file, a PIL image (left as it is), or an array (H, W), (H, W, 1),
            (H, W, 3) or (H, W, 4) of uint8, of uint16 with white at 65535, or of float with white at 1.

    Returns:
        RGB image. If its shorter side exceeds 3072 pixels it is downscaled, to bound memory.

    Raises:
        EPALMError: the file is missing, empty, damaged, truncated, a folder, not an image, or has more than
            MAX_PIXELS pixels.
    """
    if isinstance(source, Image.Image):
        return decode(source, "The image")
    if isinstance(source, np.ndarray):
        return decode(image_from_array(source), "The image")
    with open_file(source) as (file, name):
        return read(file, name)


def read(file: BinaryIO, name: str) -> Image.Image:
    """Open an image file and decode it; error messages begin with `name`."""
    if mend.is_png(file):
        content = mend.clean_png(file, MAX_BYTES)
        if content is None:
            raise EPALMError(f"{name} is larger than {MAX_BYTES >> 20} MiB, too large for a picture.")
        file = io.BytesIO(content)
    if kind := what_else(file):
        raise EPALMError(f"{name} is not an image that can be read, but {kind}: save it as PNG or JPEG.")
    try:
        return decode(begun(file, name), name)
    except EPALMError:
        if not mend.is_jpeg(file):
            raise
        file.seek(0)
        content = file.read(MAX_BYTES)
        complete = mend.complete_jpeg(content, lambda data: decode(begun(io.BytesIO(data), name), name))
        if complete is None:
            raise
        return complete


def begun(file: BinaryIO, name: str) -> Image.Image:
    """An image whose header has been read, set to decode only as many pixels as needed."""
    file.seek(0)
    try:
        with warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning):
            image = Image.open(file, formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise too_large(name) from error
    except Exception as error:  # Pillow raises all kinds of errors on files that only begin like an image
        raise EPALMError(
            f"{name} is not an image that can be read (JPEG, PNG, WebP, HEIC, GIF, TIFF, …)."
        ) from error
    factor = min(image.size) // ENOUGH_PIXELS
    if factor > 1:
        image.draft(None, (image.width // factor, image.height // factor))  # JPEG decodes at a smaller size
    return image


def decode(image: Image.Image, name: str) -> Image.Image:
    """A PIL image of any mode -> upright RGB of bounded size."""
    if image.width * image.height > MAX_PIXELS:
        raise too_large(name)
    try:
        image.load()
    except MemoryError:
        raise
    except Exception as error:  # as above
        raise EPALMError(f"{name} is damaged or incomplete and cannot be read.") from error
    if image.mode.startswith("I") or image.mode == "F":
        image = Image.fromarray(eight_bits(np.asarray(image)))
    mode = "RGBA" if image.has_transparency_data else "RGB"
    image = reduce(image if image.mode == mode else image.convert(mode))
    image = turned(image)
    if mode == "RGB":
        return image
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


def turned(image: Image.Image) -> Image.Image:
    """Rotate an image upright by its EXIF orientation, if it has a readable one."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF data raises all kinds of errors
        return image


def too_large(name: str) -> EPALMError:
    return EPALMError(f"{name} has more than {MAX_PIXELS // 10**6} million pixels: make it smaller.")


def reduce(image: Image.Image) -> Image.Image:
    """Downscale very large images by averaging blocks of pixels."""
    factor = min(image.size) // ENOUGH_PIXELS
    return image.reduce(factor) if factor > 1 else image


def image_from_array(array: np.ndarray) -> Image.Image:
    """(H, W), (H, W, 1), (H, W, 3) or (H, W, 4) -> PIL image."""
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.size == 0 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))):
        raise EPALMError(f"An array of shape {array.shape} is not an image: use (height, width, 3).")
    return Image.fromarray(eight_bits(array))


def eight_bits(values: np.ndarray) -> np.ndarray:
    """Brightness values of any type -> uint8.

    White is 65535 for uint16 and True for bool. Other types have no fixed range: white is the smallest of 1
    (floats only), 255 and 65535 that no value exceeds, otherwise the largest value.
    """
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:
        return (values >> 8).astype(np.uint8)
    values = np.nan_to_num(values.astype(np.float32)).clip(0)
    peak = float(values.max())
    ranges = (255, 65535) if values.dtype.kind == "i" else (1, 255, 65535)
    white = next((white for white in ranges if peak <= white), peak)
    return (values * (255 / white)).round().astype(np.uint8)
