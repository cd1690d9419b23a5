"""AudioCaps: ten-second sounds with one caption for training and five for evaluation."""

from __future__ import annotations

import re
from pathlib import Path

from train.data.benchmarks import original
from train.data.benchmarks.base import CAPTION_METRICS, Dataset, caption_items
from train.data.benchmarks.files import Files, read_csv
from train.data.manifest import Item

SECONDS = 10  # every clip's length
WHOLE_SECONDS = re.compile(r"\d+(?:\.0*)?")


def read(files: Files) -> dict[str, list[Item]]:
    """The official splits or the original's lists."""
    splits = {
        split: official(files, split, path)
        for split in ("train", "val", "test")
        if (path := files.find(f"{split}.csv"))
    }
    return splits or original.read_captions(files, "audio", ".+")


def official(files: Files, split: str, path: Path) -> list[Item]:
    """Items of a split. Each caption has its own row; a clip's rows need not be adjacent."""
    clips: dict[str, list[dict[str, str]]] = {}
    for row in read_csv(path, "audiocap_id", "youtube_id", "start_time", "caption"):
        clips.setdefault(row["youtube_id"], []).append(row)
    captions = {
        (*names(clip, rows[0]["start_time"]), *(row["audiocap_id"] for row in rows)): [
            row["caption"] for row in rows
        ]
        for clip, rows in clips.items()
    }
    return caption_items(split, captions, files)


def names(clip: str, start: str) -> tuple[str, ...]:
    """Names that common downloaders give a clip: its id, with or without a leading Y, and with or without
    times in seconds, milliseconds or decimals ("Y-0j7a8XaBtc_30.000_40.000").
    """
    times = [start]
    if WHOLE_SECONDS.fullmatch(start):
        begin = int(float(start))
        end = begin + SECONDS
        times += [
            f"{begin}",
            f"{begin}000",
            f"{begin:06d}",
            f"{begin}_{end}",
            f"{begin}000_{end}000",
            f"{begin}.000_{end}.000",
            f"{begin}.0_{end}.0",
            f"{begin:06d}_{end:06d}",
        ]
    endings = ("", *(f"_{time}" for time in times))
    return tuple(f"{before}{clip}{ending}" for ending in endings for before in ("", "Y"))


AUDIOCAPS = Dataset(
    name="audiocaps",
    title="AudioCaps",
    task="caption",
    modality="audio",
    metrics=CAPTION_METRICS,
    splits={
        "train": "an item for each caption",
        "val": "each clip with its five captions",
        "test": "each clip with its five captions, on which results are reported",
    },
    needs={split: f"{split}.csv" for split in ("train", "val", "test")},
    download="train.csv, val.csv and test.csv are at https://github.com/cdjkim/audiocaps, with a form to "
    "ask for the sounds; these are ten seconds of the named YouTube videos from start_time on.",
    layout=("{train,val,test}.csv", "{train,val,test}/--L22BmDI6E.wav (or .flac, .mp3, .mp4, …)"),
    read=read,
)
