"""Flickr8k: 8,000 photos of people, dogs and scenes with five captions each.

Captions are in the authors' Flickr8k.token.txt, or in captions.txt of a widely used copy. If the authors'
three lists of photos are missing, photos are assigned to splits by the hash of their names: an eighth each to
val and test, the same ones in every copy.
"""

from __future__ import annotations

from pathlib import Path

from epalm.errors import EPALMError
from train.data.benchmarks.base import CAPTION_METRICS, Dataset, caption_items, place
from train.data.benchmarks.coco_caption import read_karpathy
from train.data.benchmarks.files import Files, read_csv, read_lines
from train.data.manifest import Item

TOKENS, TABLE, KARPATHY = "Flickr8k.token.txt", "captions.txt", "dataset_flickr8k.json"
LISTS = {
    "train": "Flickr_8k.trainImages.txt",
    "val": "Flickr_8k.devImages.txt",
    "test": "Flickr_8k.testImages.txt",
}
SPLITS = {"test": 1 / 8, "val": 2 / 8, "train": 1.0}  # upper bound of a photo's `place`

Captions = dict[tuple[str, ...], list[str]]


def read(files: Files) -> dict[str, list[Item]]:
    """The splits of the authors' lists, of Karpathy's file (the same ones), or by the photos' names."""
    captions = read_captions(files)
    if not captions:
        karpathy = files.find(KARPATHY)
        return read_karpathy(files, karpathy) if karpathy else {}
    lists = {split: path for split, name in LISTS.items() if (path := files.find(name))}
    chosen: dict[str, list[tuple[str, ...]]] = {}
    if lists:
        for split, path in lists.items():
            chosen[split] = [(Path(name).stem,) for name in read_lines(path)]
        for split, photos in chosen.items():
            if lost := [photo for photo in photos if photo not in captions]:
                raise EPALMError(
                    f"{lists[split]} names {lost[0][0]}, which has no caption; download it again."
                )
    else:
        chosen |= {split: [] for split in LISTS}
        for photo in captions:
            at = place(photo[0])
            chosen[next(split for split, end in SPLITS.items() if at < end)].append(photo)
    return {
        split: caption_items(split, {photo: captions[photo] for photo in photos}, files)
        for split, photos in chosen.items()
        if photos
    }


def read_captions(files: Files) -> Captions:
    """Captions by photo name; empty if no file has them."""
    captions: Captions = {}
    if path := files.find(TOKENS):
        for number, line in enumerate(read_lines(path), 1):
            name, tab, text = line.partition("\t")
            photo, hash_mark, _ = name.partition("#")
            if not (tab and hash_mark):
                raise EPALMError(
                    f"{path}:{number} is not a line such as '1000268201.jpg#0<TAB>A dog runs .'."
                )
            captions.setdefault((Path(photo).stem,), []).append(text)
    elif path := files.find(TABLE):
        for row in read_csv(path, "image", "caption"):
            captions.setdefault((Path(row["image"]).stem,), []).append(row["caption"])
    return captions


FLICKR8K = Dataset(
    name="flickr8k",
    title="Flickr8k",
    task="caption",
    modality="image",
    metrics=CAPTION_METRICS,
    splits={
        "train": "6,000 official training photos, an item for each caption",
        "val": "1,000 photos, each with its five captions",
        "test": "1,000 photos, each with its five captions, on which results are reported",
    },
    needs=LISTS,
    download="Flickr8k_Dataset.zip and Flickr8k_text.zip come from the authors on request "
    "(https://hockenmaier.cs.illinois.edu/8k-pictures.html); copies on Kaggle have captions.txt and no lists "
    "of the splits.",
    layout=("Flickr8k.token.txt or captions.txt", *LISTS.values(), "Images/1000268201_693b08cb0e.jpg"),
    read=read,
)
