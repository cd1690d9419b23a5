"""The colour of a cut-out, by name, where it has one."""

from __future__ import annotations

import colorsys
from collections import Counter

import numpy as np
from PIL import Image

LEAST = 60  # pixels, of 48×48, that a thing must have
MOST_OF_IT = 0.62  # share of its pixels that have its colour

# Upper end of each range of hues in degrees, and what it is called if it is dark, and if it is light.
HUES = (
    (15, "red", "red"),
    (42, "brown", "orange"),
    (68, "brown", "yellow"),
    (165, "green", "green"),
    (260, "blue", "blue"),
    (295, "purple", "purple"),
    (345, "purple", "pink"),
    (361, "red", "red"),
)
LIGHT = 0.6  # value from which a hue is called by its light name


def main_colour(picture: Image.Image) -> str | None:
    """What most solid pixels of an RGBA picture are called; None if they differ, or are hardly any."""
    pixels = np.asarray(picture.resize((48, 48))).reshape(-1, 4)
    solid = pixels[pixels[:, 3] > 128][:, :3] / 255
    if len(solid) < LEAST:
        return None
    (colour, count), *_ = Counter(map(colour_name, solid.tolist())).most_common(1)
    return colour if count > MOST_OF_IT * len(solid) else None


def colour_name(rgb: list[float]) -> str:
    """What (r, g, b) from 0 to 1 is called."""
    hue, saturation, value = colorsys.rgb_to_hsv(*rgb)
    if value < 0.2:
        return "black"
    if saturation < 0.15:
        return "white" if value > 0.85 else "gray" if value > 0.3 else "black"
    degrees = 360 * hue
    _, dark, light = next(each for each in HUES if degrees < each[0])
    if dark == light == "red" and saturation <= 0.45:
        return "pink"
    return light if value > LIGHT else dark
