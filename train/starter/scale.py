"""How much of everything the factory makes: all of it for what ships, little to try it out."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from epalm.config import from_dict
from epalm.errors import EPALMError
from epalm.files import read_json_lines, write_json_lines

T = TypeVar("T")
FILE = "scale.jsonl"
FEWEST_VIEWS = 2
LEAST = 8  # of anything that is counted, however small the share


@dataclass(frozen=True)
class Scale:
    """Shares, each above 0 and at most 1.

    Attributes:
        media: of the things that Debian's media show (all pictures and sounds of a thing or none), and of
            the photos, clips and recordings.
        steps: of the optimizer.
    """

    media: float = 1.0
    steps: float = 1.0

    def __post_init__(self) -> None:
        for name, share in asdict(self).items():
            if not 0 < share <= 1:
                raise EPALMError(f"--{name}-share must be above 0 and at most 1, but it is {share:g}.")

    def count(self, full: int) -> int:
        """How many media of so many."""
        return min(full, max(LEAST, round(full * self.media)))

    def views(self, full: int) -> int:
        """How many versions of a medium of so many, the medium itself among them."""
        return full if self.media == 1 else min(full, FEWEST_VIEWS)

    def training(self, full: int) -> int:
        """How many steps of so many."""
        return min(full, max(2, round(full * self.steps)))

    def part(self, items: Sequence[T], group: Callable[[T], Hashable]) -> list[T]:
        """A fixed random part of every group, in the order of the items; not less than LEAST of each."""
        if self.media == 1:
            return list(items)
        members: dict[Hashable, list[int]] = defaultdict(list)
        for i, item in enumerate(items):
            members[group(item)].append(i)
        rng, kept = random.Random(0), set[int]()
        for numbers in members.values():
            kept.update(rng.sample(numbers, self.count(len(numbers))))
        return [item for i, item in enumerate(items) if i in kept]

    def kinds(self, items: Sequence[T], label: Callable[[T], str]) -> list[T]:
        """All items of a fixed random part of the labels; frequent labels are as likely as rare ones."""
        if self.media == 1:
            return list(items)
        labels = sorted({label(item) for item in items})
        kept = set(random.Random(0).sample(labels, min(len(labels), math.ceil(len(labels) * self.media))))
        return [item for item in items if label(item) in kept]


FULL = Scale()


def keep_to(work: Path, scale: Scale) -> None:
    """Note how much of everything a work folder has.

    Raises:
        EPALMError: it was made with another share of the media.
    """
    file = work / FILE
    if not file.exists():
        write_json_lines(file, [{"media": scale.media}])
    before: dict[str, Any] = read_json_lines(file)[0]
    if from_dict(Scale, before, str(file)).media != scale.media:
        raise EPALMError(
            f"{work} was made with --media-share {before['media']:g}, but now it is {scale.media:g}: use the "
            "same one, or another folder with --work DIR."
        )
