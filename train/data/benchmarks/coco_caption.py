"""COCO captions: Karpathy's split, which the paper uses, and the official splits.

dataset_coco.json has Karpathy's split of the 2014 pictures. captions_train2014.json and similar files have
the official splits, here called train2014, val2014, train2017 and val2017; image_info_test2014.json lists the
pictures that the evaluation server wants captions for.
"""

from __future__ import annotations

from pathlib import Path

from epalm.errors import EPALMError
from train.data.benchmarks.base import CAPTION_METRICS, Dataset, Submission, caption_items
from train.data.benchmarks.files import Files, member, read_json, records
from train.data.manifest import Item

KARPATHY = "dataset_coco.json"
SPLITS = {"train": "train", "restval": "train", "val": "val", "test": "test"}
OFFICIAL = {
    "train2014": "captions_train2014.json",
    "val2014": "captions_val2014.json",
    "test2014": "image_info_test2014.json",
    "train2017": "captions_train2017.json",
    "val2017": "captions_val2017.json",
}


def read(files: Files) -> dict[str, list[Item]]:
    """Karpathy's splits and the official ones, if their files are there."""
    splits: dict[str, list[Item]] = {}
    if path := files.find(KARPATHY):
        splits |= read_karpathy(files, path)
    for split, name in OFFICIAL.items():
        if path := files.find(name):
            splits[split] = official(files, split, path)
    return splits


def read_karpathy(files: Files, path: Path) -> dict[str, list[Item]]:
    """All splits of a file in the format of dataset_coco.json."""
    captions: dict[str, dict[tuple[str, ...], list[str]]] = {split: {} for split in SPLITS.values()}
    for row in records(
        path, member(path, read_json(path), "images"), filename=str, split=str, sentences=list
    ):
        if row["split"] not in SPLITS:
            raise EPALMError(f"{path} has the split {row['split']!r}; expected {', '.join(SPLITS)}.")
        stem = Path(row["filename"]).stem
        texts = [sentence["raw"] for sentence in records(path, row["sentences"], raw=str)]
        captions[SPLITS[row["split"]]][names(stem)] = texts
    return {split: caption_items(split, part, files) for split, part in captions.items() if part}


def official(files: Files, split: str, path: Path) -> list[Item]:
    """The pictures of an official file with their captions; test splits have none."""
    content = read_json(path)
    pictures = {
        row["id"]: names(Path(row["file_name"]).stem)
        for row in records(path, member(path, content, "images"), id=int, file_name=str)
    }
    captions: dict[tuple[str, ...], list[str]] = {stems: [] for stems in pictures.values()}
    if not split.startswith("test"):
        for row in records(path, member(path, content, "annotations"), image_id=int, caption=str):
            if row["image_id"] not in pictures:
                raise EPALMError(
                    f"{path} has a caption for picture {row['image_id']}, which it does not list."
                )
            captions[pictures[row["image_id"]]].append(row["caption"])
        bare = [stems for stems, texts in captions.items() if not texts]
        for stems in bare:
            del captions[stems]
        if bare:
            files.notes.append(f"{path.name}: {len(bare):,} pictures have no caption and are left out.")
    return caption_items(split, captions, files)


def names(stem: str) -> tuple[str, ...]:
    """Possible names of a picture: since 2017 COCO uses plain numbers."""
    return (stem, number) if (number := stem.rsplit("_", 1)[-1]) != stem else (stem,)


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
        "train2014": "and val2014, train2017, val2017: the official splits",
        "test2014": "the pictures of the evaluation server, without captions",
    },
    needs={**dict.fromkeys(("train", "val", "test"), KARPATHY), **OFFICIAL},
    submission=Submission(
        lambda split: f"captions_{'val2014' if split in SPLITS else split}_epalm_results.json",
        lambda item, text: {"image_id": int(item.id.rsplit("_", 1)[-1]), "caption": text},
    ),
    download="dataset_coco.json is in "
    "https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip, and COCO's 2014 pictures "
    "and official captions are at https://cocodataset.org/#download.",
    layout=(
        "dataset_coco.json",
        "annotations/captions_{train,val}2014.json",
        "{train,val}2014/COCO_val2014_000000391895.jpg",
    ),
    read=read,
)
