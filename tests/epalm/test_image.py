"""Images: every file is shown as a person sees it or refused in one sentence; recipes are exact."""

import json
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image, ImageCms
from safetensors.torch import load_file
from timm.data import create_transform, resolve_data_config

from epalm.errors import EPALMError
from epalm.media.image import MAX_PIXELS, open_image
from epalm.media.recipes import RECIPES, ImageRecipe, timm_recipe

GOLDEN = Path(__file__).parents[1] / "golden" / "extras" / "preprocess.safetensors"
RED, WHITE = (255, 0, 0), (255, 255, 255)


def encoded(image: Image.Image, format: str = "PNG", **options) -> bytes:
    buffer = BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def noise(*shape: int, dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max + 1, shape, dtype=dtype)


# What a person sees


def test_every_kind_of_source_gives_the_same_pixels(tmp_path):
    pixels = noise(5, 7, 3)
    image = Image.fromarray(pixels)
    path = tmp_path / "photo.png"
    image.save(path)
    for source in (path, str(path), path.read_bytes(), image, pixels):
        opened = open_image(source)
        assert opened.mode == "RGB" and (np.asarray(opened) == pixels).all()


def test_exif_rotation_is_applied():
    image = Image.new("RGB", (40, 20), WHITE)
    image.paste(RED, (0, 0, 8, 8))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it turned 90 degrees clockwise
    opened = open_image(encoded(image, "JPEG", exif=exif, quality=95))
    assert opened.size == (20, 40)
    assert opened.getpixel((17, 2))[1] < 60 and opened.getpixel((2, 2))[1] > 200  # red is now top right


def test_unreadable_exif_does_not_matter():
    assert open_image(encoded(Image.new("RGB", (8, 8), RED), "JPEG", exif=b"Exif\0\0garbage")).size == (8, 8)


def test_cmyk_photo():
    opened = open_image(encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95))
    assert np.abs(np.subtract(opened.getpixel((8, 8)), RED)).max() < 8


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_sixteen_bit_grey_keeps_its_gradations(format):
    grey = noise(6, 5, dtype=np.uint16)
    opened = np.asarray(open_image(encoded(Image.fromarray(grey), format)))
    assert (opened == (grey >> 8)[:, :, None]).all()


def test_integer_and_float_modes_are_scaled_to_their_range():
    for values, white in (
        (np.int32([[0, 255]]), 255),
        (np.int32([[0, 65535]]), 255),
        (np.float32([[0, 1]]), 255),
    ):
        opened = open_image(Image.fromarray(values))
        assert (opened.getpixel((0, 0))[0], opened.getpixel((1, 0))[0]) == (0, white)
    assert open_image(Image.fromarray(np.float32([[0.5, 1.0]]))).getpixel((0, 0)) == (128, 128, 128)
    assert open_image(Image.fromarray(np.float32([[np.nan, -3.0]]))).getpixel((0, 0)) == (0, 0, 0)


def test_transparency_is_laid_over_white():
    half_red = Image.new("RGBA", (2, 1), (255, 0, 0, 128))
    half_red.putpixel((1, 0), (0, 0, 0, 0))
    opened = open_image(encoded(half_red))
    assert opened.getpixel((0, 0)) == (255, 127, 127) and opened.getpixel((1, 0)) == WHITE

    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([*RED, 0, 0, 0])
    palette.putpixel((1, 0), 1)
    opened = open_image(encoded(palette, transparency=1))
    assert opened.getpixel((0, 0)) == RED and opened.getpixel((1, 0)) == WHITE

    assert open_image(Image.new("LA", (1, 1), (0, 0))).getpixel((0, 0)) == WHITE


def test_animated_gif_gives_its_first_frame():
    frames = [Image.new("RGB", (9, 9), colour) for colour in (RED, (0, 0, 255))]
    opened = open_image(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert opened.getpixel((4, 4)) == RED


@pytest.mark.parametrize("mode", ["1", "L", "P", "YCbCr", "HSV", "LAB"])
def test_other_colour_modes(mode):
    grey = Image.new("RGB", (3, 3), WHITE)
    if mode == "LAB":
        to_lab = ImageCms.buildTransform(
            ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"
        )
        image = ImageCms.applyTransform(grey, to_lab)
    else:
        image = grey.convert(mode)
    assert np.abs(np.subtract(open_image(image).getpixel((1, 1)), WHITE)).max() <= 2


def test_arrays_of_other_types():
    assert open_image(np.ones((2, 3), bool)).getpixel((0, 0)) == WHITE
    assert open_image(np.ones((2, 3, 1), np.float64)).getpixel((0, 0)) == WHITE
    assert open_image(np.full((2, 3, 3), 65535, np.uint16)).getpixel((0, 0)) == WHITE
    assert open_image(np.zeros((2, 3, 4), np.uint8)).getpixel((0, 0)) == WHITE  # transparent
    with pytest.raises(EPALMError, match=r"shape \(2, 3, 5\)"):
        open_image(np.zeros((2, 3, 5), np.uint8))
    with pytest.raises(EPALMError, match=r"shape \(0, 3\)"):
        open_image(np.zeros((0, 3), np.uint8))


def test_a_pil_image_is_left_as_it_is():
    image = Image.new("P", (3, 3))
    open_image(image)
    assert image.mode == "P"


# Size


def test_one_pixel_is_an_image():
    image = open_image(encoded(Image.new("RGB", (1, 1), RED)))
    recipes = (
        RECIPES["image"]["epalm"],
        replace(RECIPES["image"]["epalm"], resize="crop"),
        replace(RECIPES["image"]["epalm"], resize="pad"),
    )
    for recipe in recipes:
        assert (np.asarray(recipe.fit(image)) == RED).all()


def test_fifty_megapixels_are_reduced_while_reading():
    photo = Image.new("RGB", (8660, 5774), RED)  # 50 megapixels, 150 MB
    opened = open_image(encoded(photo, "JPEG"))
    assert opened.size == (4330, 2887)  # decoded at half the size by the JPEG reader
    assert open_image(photo).size == (2887, 1925)  # a third


def test_images_of_twelve_megapixels_keep_every_pixel():
    assert open_image(Image.new("RGB", (4000, 3000))).size == (4000, 3000)


def test_too_many_pixels_are_refused_before_decoding():
    sentence = f"more than {MAX_PIXELS // 10**6} million pixels"
    for side in (9500, 14000):  # Pillow warns of the first and refuses the second
        with pytest.raises(EPALMError, match=sentence):
            open_image(encoded(Image.new("1", (side, side))))
    with pytest.raises(EPALMError, match=sentence):
        open_image(Image.new("1", (9500, 9500)))


# What is no image


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("text.jpg", b"this is not a picture", "text.jpg is not an image"),
        ("empty.png", b"", "empty.png is empty"),
        ("head.png", encoded(Image.fromarray(noise(64, 64, 3)))[:60], "head.png is damaged"),
        ("half.png", encoded(Image.fromarray(noise(64, 64, 3)))[:6000], "half.png is damaged or incomplete"),
        (
            "half.jpg",
            encoded(Image.fromarray(noise(64, 64, 3)), "JPEG")[:2000],
            "half.jpg is damaged or incomplete",
        ),
        ("magic.jpg", b"\xff\xd8\xff\xe0", "magic.jpg is not an image"),
        ("corrupt.png", encoded(Image.new("RGB", (64, 64))).replace(b"IDAT", b"IDAX"), "corrupt.png is"),
    ],
)
def test_broken_files_are_named_in_one_sentence(tmp_path, name, content, sentence):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(EPALMError, match=sentence) as caught:
        open_image(path)
    assert str(caught.value).count("\n") == 0 and str(caught.value).endswith(".")


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(EPALMError, match=r"nowhere\.jpg does not exist"):
        open_image(tmp_path / "nowhere.jpg")
    with pytest.raises(EPALMError, match="is a folder"):
        open_image(tmp_path)
    with pytest.raises(EPALMError, match="cannot be opened"):
        open_image("x" * 5000)


# Recipes


def test_paper_recipe_is_the_recorded_one():
    golden = load_file(GOLDEN)
    image = Image.fromarray(golden["image_uint8_hwc"].numpy())
    recipe = RECIPES["image"]["epalm"]
    assert recipe.size == 224
    torch.testing.assert_close(
        replace(recipe, size=32)(image), golden["image_test_transform_32"], atol=1e-6, rtol=0
    )
    every_third = replace(recipe, size=96)(image)[:, ::3, ::3]
    torch.testing.assert_close(every_third, golden["image_test_transform_96"], atol=1e-6, rtol=0)


def test_starter_recipe_is_x_minus_127_over_128():
    image = Image.new("RGB", (50, 80), (0, 127, 255))
    pixels = RECIPES["image"]["starter"](image)
    assert pixels.shape == (3, 260, 260) and pixels.dtype == torch.float32
    torch.testing.assert_close(pixels[:, 7, 7], torch.tensor([-127 / 128, 0.0, 1.0]))


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("size", [(84, 60), (60, 85), (333, 500), (640, 427), (1, 1), (50, 613)])
def test_timm_recipe_equals_timm(size, crop_mode):
    name = "vit_base_patch16_224.augreg_in21k_ft_in1k"
    image = Image.fromarray(noise(size[1], size[0], 3))
    config = resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    expected = create_transform(**{**config, "crop_mode": crop_mode})(image)
    resize = {"center": "crop", "squash": "squash", "border": "pad"}[crop_mode]
    torch.testing.assert_close(replace(timm_recipe(name), resize=resize)(image), expected, atol=1e-6, rtol=0)


def test_timm_recipe_of_the_papers_vit():
    recipe = timm_recipe("timm/vit_base_patch16_224.augreg_in21k_ft_in1k")
    assert (recipe.size, recipe.resize, recipe.crop_pct) == (224, "crop", 0.9)
    assert recipe.mean == recipe.std == (0.5, 0.5, 0.5)
    for unknown in ("no_such_model", "resnet50.no_such_tag"):
        with pytest.raises(EPALMError, match=unknown):
            timm_recipe(unknown)


def test_a_very_long_strip_is_cropped_before_it_is_enlarged():
    recipe = replace(RECIPES["image"]["epalm"], resize="crop")
    assert recipe(Image.new("RGB", (200_000, 2), RED)).shape == (3, 224, 224)


def test_recipe_round_trips_through_json():
    for recipe in RECIPES["image"].values():
        assert ImageRecipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


def test_wrong_recipes_are_refused():
    values = RECIPES["image"]["epalm"].to_dict()
    with pytest.raises(EPALMError, match="squash.*crop.*pad"):
        ImageRecipe.from_dict({**values, "resize": "stretch"})
    with pytest.raises(EPALMError, match="bicubic"):
        ImageRecipe.from_dict({**values, "interpolation": "cubic"})
    with pytest.raises(EPALMError, match="unknown key 'sise'; the closest valid key is 'size'"):
        ImageRecipe.from_dict({**values, "sise": 3})
