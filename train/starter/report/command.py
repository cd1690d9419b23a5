"""python -m train starter-report: what the starter gets right on media that it never saw."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from epalm.errors import EPALMError
from epalm.hub.locate import STARTER
from epalm.model import EPALM
from train.reports.readme import write_between
from train.starter.pictures.public import flickr_photos
from train.starter.report.clips import clip_rows
from train.starter.report.dictionary import dictionary_lines, read_dictionary
from train.starter.report.features import Opener
from train.starter.report.images import photo_rows, room_rows, scene_rows
from train.starter.report.layers import layer_lines
from train.starter.report.sounds import sound_rows
from train.starter.report.table import Row, lines_of

INTRODUCTION = (
    "Every number is a percentage, or CIDEr × 100, with its 95 % interval (bootstrap over the items). "
    '"Another file\'s features": the same adapter sees another item, which shows what it guesses. '
    '"Nearest in training": the label, caption or answer of the training item whose features are most '
    "similar.",
    "",
)


def real_media(model: EPALM, public: Path, work: Path) -> list[str]:
    """The tables of held-out public media: photos, rooms, sounds, clips.

    Args:
        public: folder of the public sets; of what is not there nothing is said.
        work: folder for features, which are kept, and for the dictionary.
    """
    opener = {m: Opener.of(model, m, work / "report") for m in ("image", "video", "audio")}
    lines: list[str] = [*INTRODUCTION]
    captions: list[str] = []
    parts: list[tuple[str, Callable[[], Any]]] = [
        ("Photos", lambda: photo_rows(model, public, opener["image"])),
        ("Scenes", lambda: scene_rows(model, public, opener["image"])),
        ("Rooms", lambda: (room_rows(model, public, opener["image"]), [])),
        ("Sounds", lambda: sound_rows(model, public, opener["audio"])),
        ("Clips", lambda: clip_rows(model, public, opener["video"], opener["image"])),
    ]
    for title, measure in parts:
        rows: list[Row]
        rows, said = measure()
        captions += said
        if rows:
            lines += [f"### {title}", "", *lines_of(rows)]
            print("\n".join(row.line() for row in rows), flush=True)
    if captions:
        people = [text for photo in flickr_photos(public) if photo.split == "test" for text in photo.captions]
        lines += ["### Words", "", *dictionary_lines(captions, people, read_dictionary(work))]
    return lines


def run_starter_report(arguments: argparse.Namespace) -> None:
    """Measure a folder of adapters and write the tables between the marks of its README.

    Raises:
        EPALMError: there is no such folder of adapters, or no public sets.
    """
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    folder, public = arguments.folder or STARTER, arguments.data
    if not public.is_dir():
        raise EPALMError(f"There is no folder {public}: give the folder of the public sets with --data DIR.")
    arguments.work.mkdir(parents=True, exist_ok=True)
    model = EPALM.from_pretrained(folder, progress=lambda message: print(message, flush=True))
    if arguments.layers is not None:
        write_between(arguments.layers, "layers", layer_lines(model, public, arguments.work))
        print(f"The tables are in {arguments.layers}.")
        return
    lines = real_media(model, public, arguments.work)
    readme = arguments.readme or folder / "README.md"
    write_between(readme, "measured", lines)
    print(f"The tables are in {readme}.")
