"""Public sets of recordings beside Debian's: ESC-10, UrbanSound8K, and instruments in a folder for each.

public.txt says what their classes are called in captions, and which sounds may be taken for each other.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from train.data.benchmarks.esc50 import ESC10
from train.data.benchmarks.files import Files
from train.data.benchmarks.urbansound8k import URBANSOUND8K
from train.data.manifest import Item
from train.starter.sounds.kinds import Sound

TEXT = Path(__file__).with_name("public.txt")
INSTRUMENTS_TESTED = 5  # one of so many instrument files is for testing
Read = Iterator[tuple[str, str, str, str]]  # path, class, split, recording


def section(name: str) -> list[str]:
    """The lines of one section of public.txt."""
    return TEXT.read_text(encoding="utf-8").split(f"\n[{name}]\n")[1].split("\n\n")[0].splitlines()


def table(name: str, separator: str) -> dict[str, list[str]]:
    """A section of lines "name = this SEPARATOR that" -> {name: [this, that]}."""
    parts = (line.split(" = ") for line in section(name))
    return {key: values.split(separator) for key, values in parts}


def by_class(name: str) -> dict[str, Sound]:
    """{class: a sound of it without a file} of one of the sets."""
    kinds = {}
    for line in section(name):
        label_of, label, category, captions, *words = line.split(" | ")
        category, _, family = category.partition("/")
        first, *further = captions.split("; ")
        right = [label, *(words[0].split(", ") if words else ())]
        kinds[label_of] = Sound("", name, label, first, right, category, family or None, "", captions=further)
    return kinds


def read_esc10(folder: Path) -> Read:
    """Folds 1 to 3 are for training."""
    splits = ESC10.read(Files(folder, "audio"))
    for split, items in splits.items():
        yield from recordings(items, "train" if split == "train" else "test", place=1)


def read_urbansound8k(folder: Path) -> Read:
    """All folds but 10 are for training."""
    splits = URBANSOUND8K.read(Files(folder, "audio"))
    for split, items in splits.items():
        yield from recordings(items, "test" if split == "test" else "train", place=0)


def recordings(items: list[Item], split: str, place: int) -> Read:
    """Of each item; the recording is the part of its name at `place`."""
    for item in items:
        yield item.media, item.answers[0], split, item.id.split("-")[place]


def read_instruments(folder: Path) -> Read:
    """A folder for each class; files at random are for testing."""
    files = Files(folder, "audio").all_media()
    tested = set(random.Random(0).sample(range(len(files)), len(files) // INSTRUMENTS_TESTED))
    for i, path in enumerate(files):
        label = path.parent.name.replace("_", " ").lower()
        yield str(path), label, "test" if i in tested else "train", path.stem


SETS: dict[str, Callable[[Path], Read]] = {
    "esc10": read_esc10,
    "urbansound8k": read_urbansound8k,
    "instruments": read_instruments,
}


def public_sounds(folder: Path | None) -> list[Sound]:
    """The sounds of those sets that have a folder of their name in `folder`; says which have none.

    Raises:
        EPALMError: a set's folder holds something else.
    """
    sounds: list[Sound] = []
    for name, read in SETS.items():
        if folder is None or not (folder / name).is_dir():
            print(f"{name}: no folder of this name, so the starter learns nothing from it", flush=True)
            continue
        kinds, before = by_class(name), len(sounds)
        for path, label, split, recording in read(folder / name):
            kind = kinds.get(label)
            if kind is not None and Path(path).is_file():
                group = f"{name}/{recording}"
                sounds.append(replace(kind, path=path, group=group, split=split))
        print(f"{name}: {len(sounds) - before} sounds", flush=True)
    return sounds
