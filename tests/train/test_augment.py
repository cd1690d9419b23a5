"""Training transforms: the original's operations to the last bit, and views that the seed alone decides."""

import random
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torchvision.transforms import InterpolationMode, RandAugment
from torchvision.transforms.autoaugment import _apply_op

from epalm.media.audio import Sound
from epalm.media.recipes import RECIPES as SHIPPED
from epalm.media.video import Clip
from train.features.augment import (
    IMAGE_OPERATIONS,
    REFERENCE_OPERATIONS,
    augmented,
    image_operations,
    open_augmented,
    random_part,
    video_operation,
)

GOLDEN = load_file(Path(__file__).parents[1] / "golden" / "extras" / "preprocess.safetensors")
MEDIA = files("gradio") / "media_assets"
PICTURE = GOLDEN["randaug_in"].numpy()  # (40, 40, 3) uint8
NAMES = ["Identity", "AutoContrast", "Equalize", "Brightness", "Sharpness"]
NAMES += ["ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate"]
BANK = replace(SHIPPED["audio"]["epalm-audio"], frames=200)
TONE = Sound(0.3 * torch.randn(1, 16_000, generator=torch.Generator().manual_seed(0)), 16_000)
RECIPES = {
    "image": (replace(SHIPPED["image"]["epalm"], size=32), MEDIA / "images" / "lion.jpg"),
    "video": (replace(SHIPPED["video"]["epalm-video-8"], size=32, frames=4), MEDIA / "videos" / "a.mp4"),
    "audio": (BANK, MEDIA / "audio" / "sax.wav"),
    "whisper": (SHIPPED["audio"]["starter"], MEDIA / "audio" / "sax.wav"),
}


NEAREST = InterpolationMode.NEAREST


class Drawn:
    """Chance that always draws one number."""

    def __init__(self, number: float):
        self.number = number

    def random_sample(self) -> float:
        return self.number


# All modalities


@pytest.mark.parametrize("kind", RECIPES)
def test_a_view_has_the_recipes_shape_and_depends_on_the_seed_alone(kind):
    recipe, path = RECIPES[kind]

    def view(seed):
        return augmented(recipe, open_augmented(recipe, path, seed), seed)

    first = view(7)
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    assert torch.equal(view(7), first)
    assert first.shape == recipe(recipe.open(path)).shape and first.dtype == torch.float32
    assert not torch.equal(view(8), first)


@pytest.mark.parametrize("kind", RECIPES)
def test_no_global_generator_is_moved(kind):
    recipe, path = RECIPES[kind]
    before = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    augmented(recipe, open_augmented(recipe, path, 3), 3)
    assert random.getstate() == before[0]
    assert (np.random.get_state()[1] == before[1]).all() and torch.equal(torch.get_rng_state(), before[2])


# Images


@pytest.mark.parametrize("index", range(10), ids=NAMES)
@pytest.mark.parametrize("number", [0.2, 0.9])
def test_each_operation_equals_the_originals_with_either_sign(index, number):
    recorded = [GOLDEN[f"randaug.{NAMES[index]}.{i}"].numpy() for i in (0, 1)]
    result = REFERENCE_OPERATIONS[index](PICTURE, Drawn(number))
    other = REFERENCE_OPERATIONS[index](PICTURE, Drawn(1 - number))
    assert any((result == r).all() and (other == o).all() for r, o in (recorded, recorded[::-1]))


@pytest.mark.parametrize("seed", range(6))
def test_the_originals_draws_are_made_in_its_order(seed):
    result = image_operations(PICTURE, np.random.RandomState(seed), reference=True)
    assert (result == GOLDEN[f"randaug_full.{seed}"].numpy()).all()


def test_contrast_is_stretched_where_the_original_turns_a_channel_white():
    assert PICTURE.min((0, 1)).tolist() == [0, 1, 0]
    right, original = (
        operations[1](PICTURE, None) for operations in (IMAGE_OPERATIONS, REFERENCE_OPERATIONS)
    )
    assert (original[..., 1] == 255).all()
    assert right.min((0, 1)).tolist() == [0, 0, 0] and right.max((0, 1)).min() >= 254
    assert (right[..., ::2] == original[..., ::2]).all()


def test_sharpness_stays_in_range_where_the_original_wraps_around():
    dots = np.full((5, 5, 3), 250, np.uint8)
    dots[2, 2] = 5
    right, original = (operations[4](dots, None) for operations in (IMAGE_OPERATIONS, REFERENCE_OPERATIONS))
    assert right[2, 2, 0] == 0 and original[2, 2, 0] == 207  # 156 - 1.36 * 151 = -49
    assert right[1, 1, 0] == 255 and original[1, 1, 0] == 0  # 231 + 1.36 * 19 = 256


def test_a_part_has_half_to_all_of_the_area_and_lies_inside():
    chance = np.random.RandomState(0)
    parts = [random_part(640, 480, chance) for _ in range(500)]
    areas, ratios = [], []
    for left, top, right, bottom in parts:
        assert 0 <= left < right <= 640 and 0 <= top < bottom <= 480
        areas.append((right - left) * (bottom - top) / (640 * 480))
        ratios.append((right - left) / (bottom - top))
    assert 0.499 < min(areas) < 0.52 and 0.95 < max(areas) < 1.001
    assert 0.74 < min(ratios) < 0.8 and 1.3 < max(ratios) < 1.34


def test_of_a_picture_too_long_for_any_part_the_centre_is_taken():
    assert random_part(1000, 30, np.random.RandomState(0)) == (480, 0, 520, 30)
    assert random_part(30, 1000, np.random.RandomState(0)) == (0, 480, 30, 520)
    assert random_part(1, 1, np.random.RandomState(0)) == (0, 0, 1, 1)


def test_half_of_the_views_are_mirrored():
    half = Image.new("RGB", (64, 64))
    half.paste((200, 200, 200), (0, 0, 8, 64))  # the left edge is bright, in most parts
    recipe = replace(SHIPPED["image"]["epalm"], size=32)
    views = torch.stack([augmented(recipe, half, seed) for seed in range(100)])
    left, right = views[..., :4].mean((1, 2, 3)), views[..., -4:].mean((1, 2, 3))
    assert 25 < int((right > left + 0.2).sum()) < 60


# Videos


def test_frames_are_drawn_at_random():
    recipe, path = RECIPES["video"]
    times = {open_augmented(recipe, path, seed).times for seed in range(4)}
    assert len(times) == 4


@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize("index", range(14))
def test_an_operation_is_torchvisions_at_its_default_strength(index, negative):
    frames = GOLDEN["video_uint8_tchw"]
    space = RandAugment()._augmentation_space(31, tuple(frames.shape[-2:]))
    name, (levels, signed) = list(space.items())[index]
    level = float(levels[9]) if levels.ndim else 0.0
    expected = _apply_op(frames, name, -level if signed and negative else level, NEAREST, None)
    assert torch.equal(video_operation(frames, index, negative), expected)


def test_all_frames_get_the_same_view():
    pixels = np.random.default_rng(0).integers(0, 256, (1, 48, 64, 3), dtype=np.uint8)
    clip = Clip(np.repeat(pixels, 3, axis=0), (0.0, 1.0, 2.0), 3.0)
    for seed in range(8):
        view = augmented(RECIPES["video"][0], clip, seed)
        assert torch.equal(view[:, 0], view[:, 1]) and torch.equal(view[:, 0], view[:, 2])


def test_without_part_mirror_and_operations_a_clip_is_what_evaluation_sees(monkeypatch):
    clip = Clip(GOLDEN["video_uint8_tchw"].permute(0, 2, 3, 1).numpy(), (0.0, 1.0, 2.0), 3.0)
    recipe = RECIPES["video"][0]
    monkeypatch.setattr(
        "train.features.augment.random_part", lambda width, height, chance: (0, 0, width, height)
    )
    monkeypatch.setattr("train.features.augment.video_operation", lambda frames, index, negative: frames)
    plain = recipe(clip)
    views = [augmented(recipe, clip, seed) for seed in range(8)]
    assert {torch.equal(view, plain) for view in views} == {True, False}
    assert all(torch.equal(view, plain) or torch.equal(view, plain.flip(-1)) for view in views)


# Sounds


def test_one_band_and_one_stretch_are_zero_before_normalising():
    plain, zero = BANK(TONE), -BANK.mean / (2 * BANK.std)
    widths = []
    for seed in range(200):
        view = augmented(BANK, TONE, seed)
        masked = view != plain  # the second half is padding, which masks do not change
        bins = masked[:98].all(0) if not masked[:98].all() else masked.any(0)
        assert torch.allclose(view[masked], torch.tensor(zero))
        widths.append(int(bins.sum()))
    assert max(widths) == 23 and min(widths) == 0  # below 24 of 128, the original's width
    assert 10 < sum(widths) / 200 < 13


def test_the_stretch_is_at_most_96_of_1024_frames():
    recipe = replace(BANK, frames=1024)
    long = Sound(torch.randn(1, 170_000, generator=torch.Generator().manual_seed(0)), 16_000)
    bank = recipe(long)
    lengths = [int((augmented(recipe, long, seed) != bank).all(1).sum()) for seed in range(40)]
    assert 80 < max(lengths) <= 95


def test_of_a_spectrogram_in_decibels_the_masks_are_silence_within_the_sound():
    recipe = SHIPPED["audio"]["starter"]
    plain = recipe(TONE)
    changed = [(augmented(recipe, TONE, seed) != plain) for seed in range(20)]
    assert not torch.stack(changed)[:, :, 102:].any()  # one second is heard
    assert sum(bool(mask.any()) for mask in changed) > 10
    assert all(augmented(recipe, TONE, seed).min() == plain.min() for seed in range(5))
