"""MSR-VTT: short videos with twenty captions each.

The official files state each video's split. MSR_VTT.json, from a common mirror, does not, so the official
split is derived from the video's number. Videos without captions or with an unknown split are left out and
counted.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from train.data.benchmarks import original
from train.data.benchmarks.base import CAPTION_METRICS, Dataset, caption_items
from train.data.benchmarks.files import Files, member, read_json, records
from train.data.manifest import Item

# MSRVTT_data.json: both official files in one, on some mirrors.
MIRROR = "MSR_VTT.json"
NAMES = ("train_val_videodatainfo.json", "test_videodatainfo.json", "MSRVTT_data.json", MIRROR)
SPLITS = {"train": "train", "validate": "val", "val": "val", "test": "test"}
ENDS = {"train": 6513, "val": 7010, "test": 10_000}  # official splits: video numbers below this

Captions = dict[str, dict[tuple[str, ...], list[str]]]  # by split, then by the video's name


def read(files: Files) -> dict[str, list[Item]]:
    """The official splits and train7k (train and val together), or the original's lists."""
    captions: Captions = {}
    for name in NAMES:
        if (path := files.find(name)) is None or (name == MIRROR and captions):
            continue
        content = read_json(path)
        if isinstance(content, dict) and "annotations" in content:
            texts = texts_of(path, content["annotations"], "image_id")
            rows = records(path, member(path, content, "images"), id=str)
            splits = {row["id"]: split_of(row["id"]) for row in rows}
        else:
            texts = texts_of(path, member(path, content, "sentences"), "video_id")
            rows = records(path, member(path, content, "videos"), video_id=str)
            splits = {row["video_id"]: SPLITS.get(str(row.get("split"))) for row in rows}
        sort(files, path, splits, texts, captions)
    if not captions:
        return original.read_captions(files, "video", ".+")
    if captions.keys() >= {"train", "val"}:
        captions["train7k"] = captions["train"] | captions["val"]
    return {split: caption_items(split, part, files) for split, part in captions.items()}


def texts_of(path: Path, rows: Any, video: str) -> dict[str, list[str]]:
    """Captions by video name, which is under the key `video`."""
    texts: dict[str, list[str]] = {}
    for row in records(path, rows, **{video: str}, caption=str):
        texts.setdefault(row[video], []).append(row["caption"])
    return texts


def sort(
    files: Files, path: Path, split_of: dict[str, str | None], texts: dict[str, list[str]], captions: Captions
) -> None:
    """Sort the videos of a file into their splits."""
    lost = []
    for video, split in split_of.items():
        if split is None or video not in texts:
            lost.append(video)
        else:
            captions.setdefault(split, {})[video,] = texts[video]
    if lost:
        files.notes.append(
            f"{path.name}: {len(lost):,} videos without captions or with no known split are left out, for "
            f"example {lost[0]}."
        )


def split_of(video: str) -> str | None:
    """The official split of "video123"."""
    number = re.fullmatch(r"video(\d+)", video)
    if number is None:
        return None
    return next((split for split, end in ENDS.items() if int(number[1]) < end), None)


MSRVTT_CAPTION = Dataset(
    name="msrvtt_caption",
    title="MSR-VTT captions",
    task="caption",
    modality="video",
    metrics=CAPTION_METRICS,
    splits={
        "train": "6,513 official training videos, an item for each caption",
        "val": "497 official validation videos, each with all its captions",
        "train7k": "the 7,010 videos of both, an item for each caption (what the paper trains on)",
        "test": "2,990 videos, each with all its captions, on which results are reported",
    },
    needs={**dict.fromkeys(("train", "val", "train7k"), NAMES[0]), "test": NAMES[1]},
    download="Videos and annotations are those of the MSR-VTT challenge of 2016 "
    "(http://ms-multimedia-challenge.com/2016/dataset, or a mirror where that page is gone).",
    layout=(
        "{train_val,test}_videodatainfo.json, or MSR_VTT.json of a mirror",
        "{TrainValVideo,TestVideo}/video0.mp4",
    ),
    read=read,
)
