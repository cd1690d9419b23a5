"""What a model perceives, for the demo page: the frames of a video, the spectrogram of a sound.

shown, sentence = look(model.recipes["video-caption"], "clip.mp4")
shown, sentence = listen(model.recipes["audio-caption"], "dog.mp3")
"""

from itertools import takewhile
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from epalm.media.container import Source
from epalm.media.reader import HERE, Reader
from epalm.media.video import Clip

FRAME = 320  # pixels of a frame's longer side
WIDTH, HEIGHT, AXIS = 640, 200, 36  # pixels of a spectrogram, and of the time axis below it
STEPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)  # seconds between the axis' marks
MARKS = 6  # at most, so that they can be read on a phone

# Perceptually uniform colours: nine shades of matplotlib's "magma" (CC0), interpolated.
MAGMA = (
    (0, 0, 4), (29, 17, 71), (81, 18, 124), (131, 38, 129), (183, 55, 121),
    (229, 80, 100), (251, 135, 97), (254, 194, 135), (252, 253, 191),
)  # fmt: skip
SHADES = np.stack(
    [np.interp(np.linspace(0, 8, 256), range(9), part) for part in zip(*MAGMA, strict=True)], axis=1
).astype(np.uint8)  # (256, 3)


def look(recipe: Any, source: Source, reader: Reader = HERE) -> tuple[list[tuple[Image.Image, str]], str]:
    """The frames of a video that a model sees, each with its time, and a sentence about them.

    Raises:
        EPALMError: see `recipe.open`.
    """
    clip: Clip = recipe.open(source, reader)
    frames = []
    for pixels, time in zip(clip.frames, clip.times, strict=True):
        frame = Image.fromarray(pixels)
        frame.thumbnail((FRAME, FRAME))
        frames.append((frame, f"{time:.1f} s"))
    return frames, f"The model sees these {len(frames)} frames of {clip.duration:.1f} seconds."


def listen(recipe: Any, source: Source, reader: Reader = HERE) -> tuple[Image.Image, str]:
    """The spectrogram of the sound that a model hears, as a picture, and a sentence about it.

    Raises:
        EPALMError: see `recipe.open`.
    """
    sound = recipe.open(source, reader)
    length = sound.waveform.shape[1] / sound.rate
    seconds = min(length, recipe.seconds)
    heard = f"only the first {seconds:.1f}" if length > recipe.seconds else f"these {seconds:.1f}"
    return (
        picture(recipe.spectrogram(sound).numpy(), seconds),
        f"The model hears {heard} seconds. Time runs to the right, pitch upwards; brighter is louder.",
    )


def picture(spectrogram: np.ndarray, seconds: float) -> Image.Image:
    """(time, mel) energies of any unit -> RGB picture with time to the right and pitch upwards."""
    low, high = np.percentile(spectrogram, (2, 99.8))
    levels = (spectrogram.T[::-1] - low) / max(high - low, 1e-6)  # (mel, time), the highest pitch on top
    stretched = Image.fromarray(levels.astype(np.float32)).resize((WIDTH, HEIGHT))
    image = Image.new("RGB", (WIDTH, HEIGHT + AXIS), "#16161c")
    image.paste(Image.fromarray(SHADES[(np.asarray(stretched) * 255).clip(0, 255).astype(np.uint8)]))
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(20)
    for mark in marks(seconds):
        x = round(mark / seconds * (WIDTH - 1))
        left, right = x < 20, x > WIDTH - 30  # keep the label inside the picture
        draw.line((x, HEIGHT, x, HEIGHT + 7), fill="white")
        anchor = "la" if left else "ra" if right else "ma"
        at = 4 if left else WIDTH - 4 if right else x
        draw.text((at, HEIGHT + 10), f"{mark:g} s", font=font, fill="white", anchor=anchor)
    return image


def marks(seconds: float) -> list[float]:
    """Round times for the axis, from 0 on, at most `MARKS` steps apart."""
    step = next((step for step in STEPS if seconds / step <= MARKS), STEPS[-1])
    return list(takewhile(lambda mark: mark <= seconds, (round(i * step, 2) for i in range(1 + MARKS))))
