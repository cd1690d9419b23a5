"""Recordings that Debian packages ship, named by sounds.txt, and somebody who types."""

from __future__ import annotations

import random
import re
import struct
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

import numpy as np

from train.starter.packages import read_rcc
from train.starter.sounds.kinds import KINDS, Heard, read_table
from train.starter.sounds.samples import RATE, load, pieces

SUFFIXES = (".wav", ".ogg", ".oga", ".flac", ".mp3")
TAKE = re.compile(
    r"(-(Hard|Hardest|Med|Soft|Softest)|[-_]?\d+)$"
)  # of one thing: its number, or how hard it was hit


def recordings(package: str, root: Path) -> Heard:
    """The files of a package that its section of sounds.txt names."""
    files = [path for path in sorted(root.rglob("*")) if path.suffix in SUFFIXES]
    for name, patterns in read_table(package).items():
        kind = KINDS[name]
        for pattern in patterns:
            found = [path for path in files if fnmatch(str(path.with_suffix("")), f"*/{pattern}")]
            if not found:
                print(f"  {package} has no {pattern}", flush=True)
            for path in found:
                take = "speaker" if kind.label == "person" else TAKE.sub("", path.stem) or path.stem
                for part in pieces(load(path, 60)):
                    yield part, kind, kind.caption, f"{package}/{take}"


def unpack_qt_resources(root: Path) -> None:
    """Write the sounds of gcompris's archives below root/sounds."""
    for archive in sorted((root / "usr/share/gcompris-qt/rcc").glob("*.rcc")):
        for name, data in read_rcc(archive.read_bytes()):
            if name.endswith((".ogg", ".wav")):
                path = root / "sounds" / name.removeprefix("/gcompris/src/activities/").lstrip("/")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)


def unpack_cat(root: Path) -> None:
    """Write the sounds of OpenTTD's archive to root/sounds, named by their number.

    The archive begins with pairs of u32, little-endian: where a sound is (the top bit is a flag), and its
    size; the first tells how many there are. There, a name behind its length, then a WAV file.
    """
    data = (root / "usr/share/games/openttd/baseset/opensfx/opensfx.cat").read_bytes()
    count = (struct.unpack_from("<I", data)[0] & 0x7FFFFFFF) // 8
    (root / "sounds").mkdir(exist_ok=True)
    for i in range(count):
        start, size = struct.unpack_from("<II", data, 8 * i)
        start = (start & 0x7FFFFFFF) + 1 + data[start & 0x7FFFFFFF]
        (root / "sounds" / f"{i}.wav").write_bytes(data[start : start + size])


BEFORE: dict[str, Callable[[Path], None]] = {
    "gcompris-qt-data": unpack_qt_resources,
    "openttd-opensfx": unpack_cat,
}
RECORDED = (
    "tuxpaint-stamps-default",
    "gcompris-qt-data",
    "scratch",
    "openttd-opensfx",
    "lincity-ng-data",
    "frozen-bubble-data",
    "tuxtype-data",
    "stormbaancoureur-data",
    "sonic-pi-samples",
    "lmms-common",
    "hydrogen-data",
    "sound-icons",
    "sound-theme-freedesktop",
    "gnome-audio",
    "oxygen-sounds",
    "deepin-sound-theme",
    "lomiri-sounds",
)


def typing(root: Path, count: int = 24) -> Heard:
    """bucklespring-data has every key of a keyboard, pressed and released: some of them, as one types."""
    rng = random.Random("typing")
    keys = sorted((root / "usr/share/buckle/wav").glob("*-1.wav"))
    kind = KINDS["keyboard"]
    for _ in range(count):
        seconds, speed = rng.uniform(2, 6), rng.uniform(0.09, 0.25)
        mixed = np.zeros(int((seconds + 1) * RATE), np.float32)
        at = 0.0
        while at < seconds:
            down = rng.choice(keys)
            for key, after in ((down, 0), (down.with_name(down.name.replace("-1", "-0")), 0.08)):
                start, sample = int((at + after) * RATE), load(key, 1)
                mixed[start : start + len(sample)] += sample[: len(mixed) - start]
            at += rng.gauss(speed, speed / 4) if rng.random() > 0.1 else 3 * speed
        yield mixed, kind, kind.caption, "bucklespring-data"
