"""What the starter's sounds are: lines of the manifest, and the tables of sounds.txt."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

DATA = Path(__file__).with_name("sounds.txt")


@dataclass
class Sound:
    """One line of the manifest.

    Fields:
        path: relative to the work folder.
        words: of which one must stand in a caption that is right.
        group: sounds of one origin.
        captions: further ones that are as true.
    """

    path: str
    source: str
    label: str
    caption: str
    words: list[str]
    category: str
    family: str | None
    group: str
    split: str = "train"
    label_seen: bool = True
    captions: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Kind:
    """What is heard: one line of [labels]."""

    label: str
    caption: str
    words: tuple[str, ...]
    category: str
    family: str | None


# What a source yields: samples (float32, 16 kHz), kind, caption, group.
Heard = Iterator[tuple[np.ndarray, Kind, str, str]]


def section(name: str) -> list[str]:
    """The lines of one section of sounds.txt, continued lines joined."""
    text = DATA.read_text(encoding="utf-8").split(f"\n[{name}]\n")[1].split("\n\n")[0]
    return text.rstrip("\n").replace("\n    ", " ").splitlines()


def read_kinds() -> dict[str, Kind]:
    """[labels] by caption, and by label for the first caption of each."""
    kinds: dict[str, Kind] = {}
    for line in section("labels"):
        category, label, caption, *words = (part.strip() for part in line.split("|"))
        category, _, family = category.partition("/")
        further = words[0].split(", ") if words else []
        kind = Kind(label, caption, (label, *further), category, family if family not in ("", "-") else None)
        kinds.setdefault(label, kind)
        kinds[caption] = kind
    return kinds


def read_table(name: str) -> dict[str, list[str]]:
    """A section of lines "label = some words" -> {label: words}."""
    return {label: words.split() for label, _, words in (line.partition(" = ") for line in section(name))}


KINDS = read_kinds()
