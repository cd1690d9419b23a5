"""The data set of `make example`: white and black things on coloured backgrounds, drawn by this script.

    python -m train.data.example      # recreates assets/example as it ships

For every pair of thing and background, two counts are in the training split and the third is held out:
training sees one star and three stars on red, but never two. So a test caption can only be right if thing,
background and count were learned separately.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from train.data.manifest import Item, save_manifest

FOLDER = Path(__file__).parents[2] / "assets" / "example"
SIDE, FINER = 160, 4  # pixels of a picture, and how many times larger it is drawn
COLOURS = {"white": "#f8f8f8", "black": "#181818"}  # of the things
BACKGROUNDS = {
    "red": "#d62020",
    "orange": "#f28a1c",
    "yellow": "#f5d820",
    "green": "#2a9a3c",
    "blue": "#2450c8",
    "purple": "#8632a8",
    "pink": "#f59ac0",
    "brown": "#7a4a22",
}
NUMBERS = {1: "a", 2: "two", 3: "three"}
CENTRES = {  # of the things, and how large they are; all as fractions of the picture
    1: ([(0.5, 0.5)], 0.36),
    2: ([(0.27, 0.4), (0.73, 0.6)], 0.2),
    3: ([(0.26, 0.28), (0.74, 0.3), (0.5, 0.74)], 0.19),
}

Outline = list[tuple[float, float]]  # corners; x and y (downwards) go from -1 to 1


def arc(x: float, y: float, rx: float, ry: float, start: float = 0, end: float = 360) -> Outline:
    """The part of an ellipse between two angles in degrees, from the right through the bottom."""
    angles = (math.radians(start + (end - start) * i / 48) for i in range(49))
    return [(x + rx * math.cos(a), y + ry * math.sin(a)) for a in angles]


def box(left: float, top: float, right: float, bottom: float) -> Outline:
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def fir(half: float, bottom: float) -> Outline:
    return [(-half, bottom), (0, bottom - 0.75), (half, bottom)]


STAR = [
    (r * math.sin(a), -r * math.cos(a)) for r, a in ((1 - 0.6 * (i % 2), math.pi * i / 5) for i in range(10))
]
HEART = [
    (math.sin(a) ** 3, -(13 * math.cos(a) - 5 * math.cos(2 * a) - 2 * math.cos(3 * a) - math.cos(4 * a)) / 16)
    for a in (math.pi * i / 30 for i in range(60))
]
THINGS: dict[str, tuple[Outline, ...]] = {
    "star": (STAR,),
    "heart": (HEART,),
    "circle": (arc(0, 0, 0.9, 0.9),),
    "house": (box(-0.7, -0.2, 0.7, 0.9), [(-1, -0.1), (0, -0.95), (1, -0.1)]),
    "tree": (box(-0.14, 0.3, 0.14, 1), fir(0.75, 0.55), fir(0.6, 0.1), fir(0.45, -0.3)),
    "boat": (
        [(-1, 0.35), (1, 0.35), (0.6, 0.85), (-0.6, 0.85)],
        [(-0.08, 0.25), (-0.08, -0.95), (-0.75, 0.25)],
        [(0.08, 0.25), (0.08, -0.8), (0.85, 0.25)],
    ),
    "cup": (
        [(-0.8, -0.6), (0.45, -0.6), (0.3, 0.8), (-0.65, 0.8)],
        arc(0.4, 0, 0.55, 0.45, -90, 90) + arc(0.4, 0, 0.35, 0.27, 90, -90),
    ),
    "key": (
        arc(-0.55, 0, 0.45, 0.45) + arc(-0.55, 0, 0.2, 0.2, 360, 0),
        box(-0.15, -0.12, 1, 0.12),
        box(0.5, 0.1, 0.65, 0.45),
        box(0.82, 0.1, 0.97, 0.45),
    ),
    "arrow": ([(-1, -0.2), (0.2, -0.2), (0.2, -0.6), (1, 0), (0.2, 0.6), (0.2, 0.2), (-1, 0.2)],),
    "umbrella": (
        arc(0, 0, 1, 0.9, 180, 360),
        box(-0.07, 0, 0.07, 0.75),
        arc(0.16, 0.75, 0.23, 0.23, 180, 0) + arc(0.16, 0.75, 0.09, 0.09, 0, 180),
    ),
}


@dataclass(frozen=True)
class Scene:
    """What a picture shows."""

    thing: str
    colour: str
    background: str
    count: int

    @property
    def caption(self) -> str:
        things = self.thing if self.count == 1 else f"{self.thing}s"
        article = "an" if self.background == "orange" else "a"
        return f"{NUMBERS[self.count]} {self.colour} {things} on {article} {self.background} background"


def draw(scene: Scene, chance: random.Random) -> Image.Image:
    """Draw a scene, with random small shifts, sizes and rotations."""
    whole = SIDE * FINER
    image = Image.new("RGB", (whole, whole), BACKGROUNDS[scene.background])
    pen = ImageDraw.Draw(image)
    centres, radius = CENTRES[scene.count]
    for x, y in centres:
        x, y = x + chance.uniform(-0.03, 0.03), y + chance.uniform(-0.05, 0.05)
        size, turn = radius * chance.uniform(0.85, 1.1), math.radians(chance.uniform(-12, 12))
        cos, sin = size * math.cos(turn), size * math.sin(turn)
        for outline in THINGS[scene.thing]:
            corners = [(whole * (x + cos * u - sin * v), whole * (y + sin * u + cos * v)) for u, v in outline]
            pen.polygon(corners, COLOURS[scene.colour])
    return image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def scenes() -> dict[str, list[Scene]]:
    """The scenes of every split."""
    found: dict[str, list[Scene]] = {"train": [], "val": [], "test": []}
    for i, thing in enumerate(THINGS):
        for j, background in enumerate(BACKGROUNDS):
            for count in NUMBERS:
                both = [Scene(thing, colour, background, count) for colour in COLOURS]
                if count != 1 + (i + j) % 3:
                    found["train"] += both
                elif (i + j) % 4 == 0:
                    found["val"] += both
                else:
                    found["test"].append(both[j % 2])
    return found


def write(folder: Path) -> None:
    """Write pictures and manifests."""
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    for split, parts in scenes().items():
        items = []
        for number, scene in enumerate(parts):
            name = f"pictures/{split}-{number:03d}.jpg"
            draw(scene, random.Random(name)).save(folder / name, quality=80)
            items.append(Item(f"{number:03d}", name, None, (scene.caption,), {"thing": scene.thing}))
        save_manifest(items, folder / f"{split}.jsonl")


if __name__ == "__main__":
    write(FOLDER)
