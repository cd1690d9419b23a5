"""Does the map point at what the caption names?  python -m benchmarks.looks

Composes pictures, a thing in a corner of another photo, captions them, and counts how often the maximum of
the map lies in that corner where the caption names the thing. By chance it would in a fifth of the pictures.
Those whose caption does not name the thing, or also what the other photo shows, are passed over. The photos
come from Python and Debian packages that ship some; none was used in training.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from epalm import EPALM, Request
from epalm.cli.terminal import quiet_libraries
from epalm.explain import Explanation
from epalm.explain.drawing import spotlights
from epalm.media.image import open_image
from train.starter.photos import gather_photos

SIDE = 520  # pixels of a composed picture
SHARE = 0.45  # of the side that the thing takes
CORNERS = ((0, 0), (1, 0), (0, 1), (1, 1))


@dataclass(frozen=True)
class Photo:
    """A photo, and the words for what it shows."""

    image: Image.Image
    name: str
    words: tuple[str, ...]

    def named_in(self, text: str) -> bool:
        return any(re.search(rf"\b{re.escape(word)}s?\b", text, re.IGNORECASE) for word in self.words)


@dataclass(frozen=True)
class Composed:
    """A thing in a corner of another photo; the box is (left, top, right, bottom) in 0…1."""

    image: Image.Image
    thing: Photo
    ground: Photo
    box: tuple[float, float, float, float]

    def inside(self, x: float, y: float) -> bool:
        left, top, right, bottom = self.box
        return left <= x <= right and top <= y <= bottom


def compose(thing: Photo, ground: Photo, corner: tuple[int, int]) -> Composed:
    """Put a thing into a corner of another photo; both are made square."""
    image = ground.image.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    side = round(SHARE * SIDE)
    at = corner[0] * (SIDE - side), corner[1] * (SIDE - side)
    image.paste(thing.image.resize((side, side), Image.Resampling.BICUBIC), at)
    left, top = at[0] / SIDE, at[1] / SIDE
    return Composed(image, thing, ground, (left, top, left + SHARE, top + SHARE))


def compositions(things: Sequence[Photo], grounds: Sequence[Photo], rng: random.Random) -> Iterator[Composed]:
    """Every thing on every photo of something else, at random; all things have a turn before the next."""
    pairs = [(t, g) for t, g in itertools.product(things, grounds) if not set(t.words) & set(g.words)]
    rng.shuffle(pairs)
    while pairs:
        used: set[str] = set()
        rest = []
        for thing, ground in pairs:
            if thing.name in used:
                rest.append((thing, ground))
            else:
                used.add(thing.name)
                yield compose(thing, ground, rng.choice(CORNERS))
        pairs = rest


def read_photos(folder: Path) -> list[Photo]:
    """The photos of a folder that `gather_photos` made."""
    rows = [json.loads(line) for line in (folder / "photos.jsonl").read_text().splitlines()]
    return [
        Photo(open_image(folder / row["path"]), row["path"], tuple(map(str.lower, row["accepted"])))
        for row in rows
    ]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.looks", description=__doc__)
    parser.add_argument("--model", default="starter", help="model to explain (%(default)s)")
    parser.add_argument("--count", type=int, default=50, metavar="N", help="pictures to count (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of what is composed (%(default)s)")
    parser.add_argument("--work", type=Path, default=Path("runs/starter"), help="where packages are kept")
    parser.add_argument("--out", type=Path, metavar="DIR", help="keep the pictures with their maps here")
    arguments = parser.parse_args()

    quiet_libraries()
    model = EPALM.from_pretrained(arguments.model)
    photos = read_photos(gather_photos(arguments.work))
    # What the model does not name alone, it does not name in a corner.
    known = [photo for photo in photos if photo.named_in(model.caption(photo.image))]
    print(f"{len(known)} of {len(photos)} photos are named alone.")
    on_it = counted = tried = 0
    for composed in compositions(known, photos, random.Random(arguments.seed)):
        if counted == arguments.count:
            break
        tried += 1
        text = model.caption(composed.image)
        if not composed.thing.named_in(text) or composed.ground.named_in(text):
            continue
        explanation = model.explain(Request(composed.image), candidates=0)
        _, x, y = explanation.peak()
        hit = composed.inside(x, y)
        counted += 1
        on_it += hit
        print(
            f"{'on it ' if hit else 'beside'}  {composed.thing.name} on {composed.ground.name}: {text}",
            flush=True,
        )
        if arguments.out:
            keep(arguments.out, counted, composed.image, explanation)
    print(f"The map's maximum lies on the named thing in {on_it} of {counted} pictures ({tried} composed).")


def keep(folder: Path, number: int, image: Image.Image, explanation: Explanation) -> None:
    """Picture and map side by side, for a look."""
    folder.mkdir(parents=True, exist_ok=True)
    both = Image.new("RGB", (2 * SIDE, SIDE))
    both.paste(image)
    both.paste(spotlights(explanation)[0].resize((SIDE, SIDE)), (SIDE, 0))
    both.save(folder / f"{number:03}.jpg")


if __name__ == "__main__":
    main()
