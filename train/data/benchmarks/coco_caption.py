"""COCO captions in Karpathy's split, which the original reads as it is."""

from __future__ import annotations

from pathlib import Path

from epalm.errors import EPALMError
from train.data.benchmarks.base import CAPTION_METRICS, Dataset, caption_items
from train.data.benchmarks.files import Files, member, read_json, records
from train.data.manifest import Item

SPLITS = {"train": "train", "restval": "train", "val": "val", "test": "test"}


def read(files: Files) -> dict[str, list[Item]]:
    """All three splits of dataset_coco.json."""
    path = files.find("dataset_coco.json")
    if path is None:
        return {}
    captions: dict[str, dict[tuple[str, ...], list[str]]] = {split: {} for split in SPLITS.values()}
    for row in records(
        path, member(path, read_json(path), "images"), filename=str, split=str, sentences=list
    ):
        if row["split"] not in SPLITS:
            raise EPALMError(f"{path} has the split {row['split']!r}, but {', '.join(SPLITS)} are expected.")
        stem = Path(row["filename"]).stem
        texts = [sentence["raw"] for sentence in records(path, row["sentences"], raw=str)]
        # Since 2017, COCO's names are bare numbers.
        captions[SPLITS[row["split"]]][stem, stem.rsplit("_", 1)[-1]] = texts
    return {split: caption_items(split, part, files) for split, part in captions.items() if part}


COCO_CAPTION = Dataset(
    name="coco_caption",
    title="COCO captions",
    task="caption",
    modality="image",
    metrics=CAPTION_METRICS,
    splits={
        "train": "Karpathy's train and restval pictures, an item for each caption",
        "val": "5,000 pictures, each with all its captions",
        "test": "5,000 pictures, each with all its captions, on which results are reported",
    },
    download="dataset_coco.json is in "
    "https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip, and COCO's 2014 pictures "
    "are at https://cocodataset.org/#download.",
    layout=("dataset_coco.json", "{train,val}2014/COCO_val2014_000000391895.jpg"),
    read=read,
)
