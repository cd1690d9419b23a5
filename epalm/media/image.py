"""Images: any file a person may have -> PIL RGB -> the tensor that an encoder expects.

image = open_image("photo.jpg")
pixels = RECIPES["epalm"](image)  # (3, 224, 224)
"""

import math
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import timm
import torch
from PIL import Image, ImageOps
from timm.data import resolve_data_config
from torch import Tensor

from epalm.errors import EPALMError

# Larger images are refused. Pillow's own limit: from here on it warns of decompression bombs.
MAX_PIXELS = Image.MAX_IMAGE_PIXELS or 89_478_485

# Photos whose shorter side is at least twice this are reduced by a whole factor while they are read.
ENOUGH_PIXELS = 1536

# Beyond this ratio of the sides, the ends of the longer one are cut before a resize that keeps the ratio.
MAX_ASPECT = 16

ImageSource = str | Path | bytes | Image.Image | np.ndarray


def open_image(source: ImageSource) -> Image.Image:
    """Read an image the way a person sees it: upright, first frame, eight bits, on a white ground.

    Args:
        source: a path, the bytes of a file, a PIL image (left as it is), or an array (H, W), (H, W, 1),
            (H, W, 3) or (H, W, 4) of uint8, of uint16 with white at 65535, or of float with white at 1.

    Returns:
        RGB image. Above 3072 pixels on the shorter side it is reduced, to bound the memory used.

    Raises:
        EPALMError: missing, empty, damaged or truncated file, a folder, not an image, over MAX_PIXELS pixels.
    """
    if isinstance(source, Image.Image):
        return decode(source, "The image")
    if isinstance(source, np.ndarray):
        return decode(image_from_array(source), "The image")
    if isinstance(source, bytes):
        return read(BytesIO(source), "The image")
    try:
        with open(source, "rb") as file:
            return read(file, str(source))
    except FileNotFoundError as error:
        raise EPALMError(f"{source} does not exist.") from error
    except IsADirectoryError as error:
        raise EPALMError(f"{source} is a folder, not an image file.") from error
    except OSError as error:
        raise EPALMError(f"{source} cannot be opened: {error.strerror}.") from error


def read(file: BinaryIO, name: str) -> Image.Image:
    """Open an image file and decode it; `name` begins the sentence of an error."""
    if not file.read(1):
        raise EPALMError(f"{name} is empty.")
    file.seek(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(file)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise too_large(name) from error
    except Exception as error:  # Pillow's readers raise many types on files that only begin like an image
        raise EPALMError(
            f"{name} is not an image that can be read (JPEG, PNG, WebP, GIF, TIFF, …)."
        ) from error
    factor = min(image.size) // ENOUGH_PIXELS
    if factor > 1:
        image.draft(None, (image.width // factor, image.height // factor))  # JPEG decodes smaller right away
    return decode(image, name)


def decode(image: Image.Image, name: str) -> Image.Image:
    """A PIL image of any mode -> upright RGB of bounded size."""
    if image.width * image.height > MAX_PIXELS:
        raise too_large(name)
    try:
        image.load()
    except Exception as error:  # as above
        raise EPALMError(f"{name} is damaged or incomplete and cannot be read.") from error
    if image.mode.startswith("I") or image.mode == "F":
        image = Image.fromarray(eight_bits(np.asarray(image)))
    mode = "RGBA" if image.has_transparency_data else "RGB"
    image = reduce(image if image.mode == mode else image.convert(mode))
    image = ImageOps.exif_transpose(image)
    if mode == "RGB":
        return image
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


def too_large(name: str) -> EPALMError:
    return EPALMError(f"{name} has more than {MAX_PIXELS // 10**6} million pixels: make it smaller.")


def reduce(image: Image.Image) -> Image.Image:
    """Average whole blocks of pixels of very large images."""
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

    White is 65535 for uint16 and True for bool. Other types do not say their range: white is the smallest of
    1 (floats only), 255 and 65535 that no value exceeds, else the largest value.
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


@dataclass(frozen=True)
class ImageRecipe:
    """How an RGB image becomes an encoder's input; stored in the adapter's config.json as a plain dict.

    Fields:
        name: "epalm" (the paper's), "starter", or the timm model whose own recipe this is.
        size: side of the square result, in pixels.
        resize: "squash" (both sides to the target, ratio not kept), "crop" (shorter side to the target,
            centre kept) or "pad" (longer side to the target, filled up with the mean colour).
        crop_pct: the image is resized to floor(size / crop_pct), then the central size×size is taken.
        interpolation: a PIL resampling filter, lower case; antialiased.
        mean, std: per RGB channel, for values in 0…1.
    """

    name: str
    size: int
    resize: str
    crop_pct: float
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        if self.resize not in ("squash", "crop", "pad"):
            raise EPALMError(f"resize is {self.resize!r} in an image recipe: it must be squash, crop or pad.")
        if self.interpolation.upper() not in Image.Resampling.__members__:
            known = ", ".join(Image.Resampling.__members__).lower()
            raise EPALMError(
                f"interpolation is {self.interpolation!r} in an image recipe: it must be one of {known}."
            )

    def open(self, source: ImageSource) -> Image.Image:
        """The file as an upright RGB image (`open_image`)."""
        return open_image(source)

    def __call__(self, image: Image.Image) -> Tensor:
        """RGB image -> (3, size, size) float32."""
        pixels = torch.from_numpy(np.array(self.fit(image))).permute(2, 0, 1)  # (3, size, size) uint8
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (self.mean, self.std))
        return (pixels.float() / 255 - mean) / std

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

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ImageRecipe":
        """The inverse of to_dict, also after a round trip through JSON.

        Raises:
            EPALMError: a field is missing, unknown or has a value that is not allowed.
        """
        expected = {field.name for field in fields(cls)}
        if set(values) != expected:
            wrong = ", ".join(sorted(set(values) ^ expected))
            raise EPALMError(f"The image recipe has missing or unknown fields: {wrong}.")
        return cls(**{**values, "mean": tuple(values["mean"]), "std": tuple(values["std"])})


def centred(image: Image.Image, width: int, height: int, fill: tuple[int, ...] = (0, 0, 0)) -> Image.Image:
    """The central width×height of an image, with a border where the image is smaller."""
    if image.size == (width, height):
        return image
    canvas = Image.new("RGB", (width, height), fill)
    canvas.paste(image, (margin(width - image.width), margin(height - image.height)))
    return canvas


def margin(difference: int) -> int:
    """Half of a difference of sides; odd ones are rounded as torchvision's crop and timm's pad do."""
    return difference // 2 if difference > 0 else -round(-difference / 2)


RECIPES = {
    # The original's evaluation transform, for its ViTs too although they were trained with other statistics.
    "epalm": ImageRecipe(
        name="epalm",
        size=224,
        resize="squash",
        crop_pct=1.0,
        interpolation="bicubic",
        mean=(0.48145466, 0.4578275, 0.40821073),
        std=(0.26862954, 0.26130258, 0.27577711),
    ),
    # EfficientNet-Lite2 was trained on (x - 127) / 128 for x in 0…255.
    "starter": ImageRecipe(
        name="starter",
        size=260,
        resize="squash",
        crop_pct=1.0,
        interpolation="bicubic",
        mean=(127 / 255,) * 3,
        std=(128 / 255,) * 3,
    ),
}


def timm_recipe(model_name: str) -> ImageRecipe:
    """The evaluation transform that a timm model's weights were made with ("timm/NAME" or "NAME").

    Raises:
        EPALMError: timm knows no such weights, or they expect images that are not square.
    """
    try:
        weights = timm.get_pretrained_cfg(model_name.removeprefix("timm/"), allow_unregistered=False)
    except RuntimeError as error:
        raise EPALMError(f"timm knows no pretrained weights named {model_name}.") from error
    config = resolve_data_config(pretrained_cfg=weights.to_dict())
    channels, height, width = config["input_size"]
    if channels != 3 or height != width:
        raise EPALMError(
            f"{model_name} expects {width}×{height} images of {channels} channels, not square RGB."
        )
    return ImageRecipe(
        name=model_name,
        size=height,
        resize={"center": "crop", "squash": "squash", "border": "pad"}[config["crop_mode"]],
        crop_pct=config["crop_pct"],
        interpolation=config["interpolation"],
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )
