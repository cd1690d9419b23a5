"""The original's training augmentation: every draw is another view of the same file.

media = open_augmented(recipe, "dog.jpg", seed)
tensor = augmented(recipe, media, seed)  # of the shape that recipe(recipe.open("dog.jpg")) has

All randomness comes from the seed and no global generator is used, so views depend neither on the order in
which files are read nor on the number of threads.

    images    a random crop (50 to 100 % of the area, aspect ratio 3:4 to 4:3), resized; mirrored with
              probability 1/2; two of ten operations, each skipped with probability 1/2 (`image_operations`)
    videos    random frames (`rand`); the same crop, mirroring and two of torchvision's fourteen RandAugment
              operations, with the same strength and sign, in all frames
    sounds    SpecAugment: one band of frequencies and one stretch of time are masked

Two image operations are wrong in the original: AutoContrast turns a channel white if its darkest value is not
0, and Sharpness lets values outside 0…255 wrap around. Here they are correct, unless `reference` selects what
the published adapters were trained with.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
import torchvision.transforms.functional as vision
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms import InterpolationMode

from epalm.media.audio import Sound
from epalm.media.container import MediaSource
from epalm.media.recipes import AudioRecipe, ImageRecipe, VideoRecipe, WhisperRecipe
from epalm.media.video import Clip

Recipe = ImageRecipe | VideoRecipe | AudioRecipe | WhisperRecipe
Media = Image.Image | Clip | Sound  # what a recipe opens
Chance = np.random.RandomState  # its streams never change between versions, unlike newer generators'
Box = tuple[int, int, int, int]  # left, top, right, bottom

AREA, RATIO = (0.5, 1.0), (3 / 4, 4 / 3)  # area share and aspect ratio of the crop
FREQUENCY_MASK, TIME_MASK = 24 / 128, 96 / 1024  # widest masks, as shares of the spectrogram's sides
GREY = (128, 128, 128)  # fills the border of a shifted picture


def open_augmented(recipe: Recipe, source: MediaSource, seed: int) -> Media:
    """Open a file for `augmented`; a video's frames are sampled at random, as in training.

    Raises:
        EPALMError: like the recipe's `open`.
    """
    if isinstance(recipe, VideoRecipe):
        return replace(recipe, sampling="rand").open(source, seed=seed)
    return recipe.open(source)


def augmented(recipe: Recipe, media: Media, seed: int, reference: bool = False) -> Tensor:
    """One random view of an opened file: float32, with the recipe's output shape.

    Args:
        seed: 0 to 2**32 - 1; the same seed gives the same view.
        reference: use the original's incorrect AutoContrast and Sharpness.
    """
    chance = np.random.RandomState(seed)
    match recipe, media:
        case ImageRecipe(), Image.Image():
            return augmented_image(recipe, media, chance, reference)
        case VideoRecipe(), Clip():
            return augmented_video(recipe, media, chance)
        case AudioRecipe(), Sound():
            return augmented_bank(recipe, media, chance)
        case WhisperRecipe(), Sound():
            return augmented_whisper(recipe, media, chance)
    raise TypeError(f"{type(recipe).__name__} does not open {type(media).__name__}")


# ---------------------------------------------------------------- pictures


def augmented_image(recipe: ImageRecipe, image: Image.Image, chance: Chance, reference: bool) -> Tensor:
    """RGB image -> (3, size, size): crop, mirror, two operations; normalised by the recipe."""
    size, filter = (recipe.size, recipe.size), Image.Resampling[recipe.interpolation.upper()]
    image = image.crop(random_part(*image.size, chance)).resize(size, filter)
    if chance.random_sample() < 0.5:
        image = ImageOps.mirror(image)
    image = Image.fromarray(image_operations(np.asarray(image), chance, reference))
    return replace(recipe, resize="squash", crop_pct=1.0)(image)  # already the right size: only normalises


def random_part(width: int, height: int, chance: Chance) -> Box:
    """A box of random area, aspect ratio and position, as in torchvision's RandomResizedCrop.

    If ten random boxes do not fit, the largest central one with an allowed ratio.
    """
    for _ in range(10):
        area = width * height * chance.uniform(*AREA)
        ratio = math.exp(chance.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(chance.randint(width - w + 1)), int(chance.randint(height - h + 1))
            return left, top, left + w, top + h
    w = max(1, min(width, round(height * RATIO[1])))
    h = max(1, min(height, round(width / RATIO[0])))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def image_operations(pixels: np.ndarray, chance: Chance, reference: bool) -> np.ndarray:
    """The original's RandomAugment with N = 2 and M = 7 on (H, W, 3) uint8.

    Two operations are drawn with replacement; each is skipped with probability 1/2.
    """
    operations = REFERENCE_OPERATIONS if reference else IMAGE_OPERATIONS
    for index in chance.choice(len(operations), 2):
        if chance.random_sample() <= 0.5:
            pixels = operations[index](pixels, chance)
    return pixels


def autocontrast(pixels: np.ndarray) -> np.ndarray:
    """Stretch each channel to 0…255."""
    return np.asarray(ImageOps.autocontrast(Image.fromarray(pixels)))


def autocontrast_original(pixels: np.ndarray) -> np.ndarray:
    """The same, but channels without a 0 become white: the original negates their minimum as an 8-bit number,
    256 - minimum, so it shifts values up instead of down.
    """
    low, high = pixels.min((0, 1)), pixels.max((0, 1))
    return np.where((low > 0) & (low < high), np.uint8(255), autocontrast(pixels))


def equalize(pixels: np.ndarray) -> np.ndarray:
    """Equalise the histogram of each channel."""
    return np.asarray(ImageOps.equalize(Image.fromarray(pixels)))


def brighten(pixels: np.ndarray, factor: float) -> np.ndarray:
    return (pixels.astype(np.float32) * np.float32(factor)).clip(0, 255).astype(np.uint8)


def sharpen(pixels: np.ndarray, factor: float, wrap: bool = False) -> np.ndarray:
    """Move away from a smoothed copy, except at the border; values outside 0…255 are clipped or wrap."""
    wide = pixels.astype(np.int32)
    rows = wide[:-2] + wide[1:-1] + wide[2:]
    total = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] + 4 * wide[1:-1, 1:-1]
    smooth = np.rint(total / 13).astype(np.float32)
    inner = (smooth + np.float32(factor) * (pixels[1:-1, 1:-1] - smooth)).astype(np.int32)
    sharp = pixels.copy()
    sharp[1:-1, 1:-1] = (inner % 256) if wrap else inner.clip(0, 255)
    return sharp


def affine(pixels: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Warp (H, W, 3) uint8 with a (2, 3) matrix from old to new coordinates, filling with grey.

    Same arithmetic as OpenCV, which the original uses: positions in 1/32 pixel, bilinear interpolation.
    """
    height, width, _ = pixels.shape
    back = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))[:2]  # (2, 3), from new to old coordinates
    across = np.rint(back[:, :1] * np.arange(width) * 1024)  # (2, W)
    down = np.rint((back[:, 1:2] * np.arange(height) + back[:, 2:]) * 1024) + 16  # (2, H)
    place = (across[:, None] + down[:, :, None]).astype(np.int64) >> 5  # (2, H, W): x and y in 1/32 pixels
    (x, y), (right, below) = place >> 5, place & 31
    grey = np.full((height + 2, width + 2, 3), GREY, np.int64)  # one pixel of border stands for all outside
    grey[1:-1, 1:-1] = pixels
    total = np.full((height, width, 3), 512)  # a half of 1024: rounds
    for dy, weight_y in ((0, 32 - below), (1, below)):
        for dx, weight_x in ((0, 32 - right), (1, right)):
            corner = grey[(y + dy + 1).clip(0, height + 1), (x + dx + 1).clip(0, width + 1)]
            total += (weight_x * weight_y)[..., None] * corner
    return (total >> 10).astype(np.uint8)


def signed(level: float, chance: Chance) -> float:
    return -level if chance.random_sample() > 0.5 else level


def shear_x(pixels: np.ndarray, chance: Chance) -> np.ndarray:
    return affine(pixels, np.array([[1, signed(0.21, chance), 0], [0, 1, 0]]))


def shear_y(pixels: np.ndarray, chance: Chance) -> np.ndarray:
    return affine(pixels, np.array([[1, 0, 0], [signed(0.21, chance), 1, 0]]))


def translate_x(pixels: np.ndarray, chance: Chance) -> np.ndarray:
    return affine(pixels, np.array([[1, 0, -signed(7, chance)], [0, 1, 0]]))


def translate_y(pixels: np.ndarray, chance: Chance) -> np.ndarray:
    return affine(pixels, np.array([[1, 0, 0], [0, 1, -signed(7, chance)]]))


def rotate(pixels: np.ndarray, chance: Chance) -> np.ndarray:
    """By 21 degrees about the centre."""
    height, width, _ = pixels.shape
    angle = math.radians(-signed(21, chance))  # in the original, the only operation with swapped signs
    cos, sin = math.cos(angle), math.sin(angle)
    x, y = width / 2, height / 2
    return affine(pixels, np.array([[cos, sin, x - cos * x - sin * y], [-sin, cos, y + sin * x - cos * y]]))


# In the original's order, which random draws index; all at level 7 of 10.
IMAGE_OPERATIONS: tuple[Callable[[np.ndarray, Chance], np.ndarray], ...] = (
    lambda pixels, chance: pixels,
    lambda pixels, chance: autocontrast(pixels),
    lambda pixels, chance: equalize(pixels),
    lambda pixels, chance: brighten(pixels, 1.36),
    lambda pixels, chance: sharpen(pixels, 1.36),
    shear_x,
    shear_y,
    translate_x,
    translate_y,
    rotate,
)
REFERENCE_OPERATIONS = (
    *IMAGE_OPERATIONS[:1],
    lambda pixels, chance: autocontrast_original(pixels),
    *IMAGE_OPERATIONS[2:4],
    lambda pixels, chance: sharpen(pixels, 1.36, wrap=True),
    *IMAGE_OPERATIONS[5:],
)

# ---------------------------------------------------------------- videos


def augmented_video(recipe: VideoRecipe, clip: Clip, chance: Chance) -> Tensor:
    """Frames -> (3, T, size, size): crop, mirror and two operations, the same for all frames; normalised."""
    height, width = clip.frames.shape[1:3]
    left, top, right, bottom = random_part(width, height, chance)
    size = [recipe.size, recipe.size]
    resized = []
    for pixels in clip.frames:  # one by one to save memory
        part = torch.from_numpy(np.ascontiguousarray(pixels[top:bottom, left:right])).permute(2, 0, 1)
        resized.append(
            vision.resize(part, size, InterpolationMode(recipe.interpolation), antialias=recipe.antialias)
        )
    frames = torch.stack(resized)  # (T, 3, size, size) uint8
    if chance.random_sample() < 0.5:
        frames = frames.flip(-1)
    for _ in range(2):
        frames = video_operation(frames, int(chance.randint(14)), bool(chance.randint(2)))
    return recipe(Clip(frames.permute(0, 2, 3, 1).numpy(), clip.times, clip.duration))  # normalises


def video_operation(frames: Tensor, index: int, negative: bool) -> Tensor:
    """One operation of torchvision's RandAugment at its default strength, 9 of 30, on (T, 3, H, W) uint8.

    Args:
        index: 0 to 13, in torchvision's order.
        negative: the sign, for operations that have one.
    """
    height, width = frames.shape[-2:]

    def level(largest: float, sign: int = -1 if negative else 1) -> float:
        return sign * float(torch.linspace(0, largest, 31)[9])

    def shifted(x: float, y: float) -> Tensor:
        return vision.affine(frames, 0, [int(x), int(y)], 1, [0, 0])

    def sheared(x: float, y: float) -> Tensor:
        degrees = [math.degrees(math.atan(value)) for value in (x, y)]
        return vision.affine(frames, 0, [0, 0], 1, degrees, center=[0, 0])

    match index:
        case 1:
            return sheared(level(0.3), 0)
        case 2:
            return sheared(0, level(0.3))
        case 3:
            return shifted(level(150 / 331 * width), 0)
        case 4:
            return shifted(0, level(150 / 331 * height))
        case 5:
            return vision.rotate(frames, level(30))
        case 6:
            return vision.adjust_brightness(frames, 1 + level(0.9))
        case 7:
            return vision.adjust_saturation(frames, 1 + level(0.9))
        case 8:
            return vision.adjust_contrast(frames, 1 + level(0.9))
        case 9:
            return vision.adjust_sharpness(frames, 1 + level(0.9))
        case 10:
            return vision.posterize(frames, 7)  # bits kept
        case 11:
            return vision.solarize(frames, 255 - level(255, sign=1))
        case 12:
            return vision.autocontrast(frames)
        case 13:
            return vision.equalize(frames)
    return frames


# ---------------------------------------------------------------- sounds


def augmented_bank(recipe: AudioRecipe, sound: Sound, chance: Chance) -> Tensor:
    """Sound -> (frames, mel_bins). As in the original, masks and padding are 0 before normalising."""
    bank = recipe.spectrogram(sound)
    bank = F.pad(bank, (0, 0, 0, recipe.frames - len(bank)))
    bank[:, random_span(recipe.mel_bins, FREQUENCY_MASK, chance)] = 0
    bank[random_span(recipe.frames, TIME_MASK, chance)] = 0
    return (bank - recipe.mean) / (2 * recipe.std)


def augmented_whisper(recipe: WhisperRecipe, sound: Sound, chance: Chance) -> Tensor:
    """Sound -> (80, 100 seconds). Not in the original: masks are silence, within the audible part."""
    spectrogram = recipe(sound)
    heard = len(recipe.spectrogram(sound))
    silence = spectrogram.min()
    spectrogram[random_span(len(spectrogram), FREQUENCY_MASK, chance)] = silence
    spectrogram[:, random_span(heard, TIME_MASK, chance)] = silence
    return spectrogram


def random_span(length: int, widest: float, chance: Chance) -> slice:
    """A SpecAugment mask: random width up to the share `widest` of the length, at a random position."""
    width = chance.uniform(0, widest * length)
    start = int(chance.uniform(0, length - width))
    return slice(start, start + int(width))
