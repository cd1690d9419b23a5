"""MSR-VTT: short videos with twenty captions each."""

from __future__ import annotations

from epalm.errors import EPALMError
from train.data.benchmarks import original
from train.data.benchmarks.base import CAPTION_METRICS, Dataset, caption_items
from train.data.benchmarks.files import Files, member, read_json, records
from train.data.manifest import Item

# MSRVTT_data.json is how mirrors name both in one.
NAMES = ("train_val_videodatainfo.json", "test_videodatainfo.json", "MSRVTT_data.json")
SPLITS = {"train": "train", "validate": "val", "test": "test"}


def read(files: Files) -> dict[str, list[Item]]:
    """The official splits, and train7k, which is train and val together; or the original's lists."""
    captions: dict[str, dict[tuple[str, ...], list[str]]] = {}
    for path in filter(None, map(files.find, NAMES)):
        content = read_json(path)
        texts: dict[str, list[str]] = {}
        for row in records(path, member(path, content, "sentences"), video_id=str, caption=str):
            texts.setdefault(row["video_id"], []).append(row["caption"])
        for row in records(path, member(path, content, "videos"), video_id=str, split=str):
            split = SPLITS.get(row["split"])
            if split is None or row["video_id"] not in texts:
                raise EPALMError(f"{path} has no captions or no known split for {row['video_id']}.")
            captions.setdefault(split, {})[row["video_id"],] = texts[row["video_id"]]
    if not captions:
        return original.read_captions(files, "video", ".+")
    if captions.keys() >= {"train", "val"}:
        captions["train7k"] = captions["train"] | captions["val"]
    return {split: caption_items(split, part, files) for split, part in captions.items()}


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
    download="Videos and annotations are those of the MSR-VTT challenge of 2016 "
    "(http://ms-multimedia-challenge.com/2016/dataset, or a mirror where that page is gone).",
    layout=("{train_val,test}_videodatainfo.json", "{TrainValVideo,TestVideo}/video0.mp4"),
    read=read,
)
