"""Explanations as pictures: a spotlight on what mattered, and a table of layers by words.

explanation = model.explain(Request("cat.jpg"))
spotlights(explanation)[0].save("looked.png")
heat_map(explanation).save("layers.png")
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFont

from epalm.explain.explanation import Explanation
from epalm.media.previews import AXIS

DIM = 0.3  # brightness of what did not matter
FOR, AGAINST = (33, 102, 172), (178, 24, 43)  # blue and red that colour-blind people can tell apart
CELL, ROW, LABELS, INK = 74, 34, 132, (28, 28, 34)  # pixels of the table


def spotlights(explanation: Explanation) -> list[Image.Image]:
    """(F) pictures, bright where the encoder looked for the answer and dark elsewhere."""
    return _lit(explanation, explanation.relevance.clip(min=0))


def attention_maps(explanation: Explanation) -> list[Image.Image] | None:
    """(F) pictures, bright where [CLS] attended; None for encoders without [CLS]."""
    return None if explanation.attention is None else _lit(explanation, explanation.attention)


def heat_map(explanation: Explanation) -> Image.Image:
    """A table of perceptual tokens by words: blue where a token supports a word, red where it opposes it."""
    words, rows = explanation.words, layer_names(explanation.layers)
    font = ImageFont.load_default(14)
    widths = [max(CELL, int(font.getlength(word)) + 12) for word in words]
    image = Image.new("RGB", (LABELS + sum(widths) + 8, ROW * (1 + len(rows)) + 8), "white")
    draw = ImageDraw.Draw(image)
    x = LABELS
    for w, word in enumerate(words):
        draw.text((x + widths[w] / 2, ROW / 2), word, font=font, fill=INK, anchor="mm")
        for j, value in enumerate(explanation.contributions[:, w]):
            colour, ink = shade(float(value), explanation.contributions)
            top = ROW * (1 + j)
            draw.rectangle((x, top, x + widths[w] - 2, top + ROW - 2), fill=colour)
            draw.text((x + widths[w] / 2, top + ROW / 2), f"{value:+.2f}", font=font, fill=ink, anchor="mm")
        x += widths[w]
    for j, name in enumerate(rows):
        draw.text((LABELS - 8, ROW * (1.5 + j)), name, font=font, fill=INK, anchor="rm")
    return image


def shade(value: float, values: np.ndarray) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Colours of a table cell and of the number in it."""
    strength = min(1.0, abs(value) / max(float(np.abs(values).max(initial=0.0)), 1e-6))
    end = FOR if value > 0 else AGAINST
    red, green, blue = (round(255 + strength * (part - 255)) for part in end)
    # At a luminance of 0.18 black and white text have equal contrast, so the number is always readable.
    ink = (0, 0, 0) if luminance(red, green, blue) > 0.18 else (255, 255, 255)
    return (red, green, blue), ink


def luminance(*parts: int) -> float:
    """Relative luminance of an sRGB colour, from 0 (black) to 1, as WCAG defines it."""
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in (v / 255 for v in parts)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def layer_names(layers: Sequence[Sequence[int]]) -> list[str]:
    """The language-model layers that each perceptual token enters, in words."""
    names = []
    for entered in layers:
        if not entered:
            names.append("no layer")
        elif len(entered) == 1:
            names.append(f"layer {entered[0]}")
        else:
            names.append(f"layers {entered[0]} to {entered[-1]}")
    return names


def _lit(explanation: Explanation, maps: np.ndarray) -> list[Image.Image]:
    peak = max(float(maps.max(initial=0.0)), 1e-12)  # one scale for all frames, so that they can be compared
    lit = []
    for picture, values in zip(explanation.pictures, maps, strict=True):
        whole = picture.convert("RGB")
        below = AXIS if explanation.modality == "audio" else 0  # leave out the spectrogram's time axis
        size = whole.width, whole.height - below
        light = Image.fromarray((values / peak).astype(np.float32)).resize(size, Image.Resampling.BICUBIC)
        mask = Image.fromarray((np.asarray(light).clip(0, 1) * 255).astype(np.uint8))
        bright = whole.crop((0, 0, *size))
        whole.paste(ImageEnhance.Brightness(ImageEnhance.Color(bright).enhance(0.4)).enhance(DIM))
        whole.paste(bright, (0, 0), mask)
        lit.append(whole)
    return lit
