"""Which pictures are kept for testing: whole groups of near-duplicates, never one of a pair on each side.

The packages share artwork, recoloured, mirrored or redrawn in black and white. Two pictures belong together
when the encoder's features or their outlines (also mirrored) are nearly the same; groups are the connected
components of that relation.
"""

import random
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import normalize

from epalm.files import read_json_lines, write_json_lines
from train.starter.clips.collect import is_cut_out
from train.starter.pictures.colours import main_colour
from train.starter.pictures.features import on_white

TEST_SHARE = 0.15
LARGEST_TESTED = 6  # pictures of a group: larger ones (clocks, smileys) would dominate the test
SAME_PICTURE = 0.80  # cosine of the standardised final features, whatever the labels say
SAME_FEATURE, SAME_OUTLINE = 0.66, 0.85  # cosine, or correlation of outlines, of pictures with one label
BOTH_ALIKE = 0.45, 0.65  # or this much of each


def thumbnail(picture: Image.Image) -> Tensor:
    """RGBA -> (2, 256) outlines at 16×16, zero-mean, unit length, as they are and mirrored."""
    grey = on_white(picture).convert("L").resize((64, 64)).filter(ImageFilter.GaussianBlur(1))
    y, x = np.gradient(np.asarray(grey, dtype=np.float32))
    edges = torch.from_numpy(np.hypot(x, y)).view(16, 4, 16, 4).mean((1, 3))  # (16, 16)
    both = torch.stack([edges, edges.flip(1)]).flatten(1)
    return normalize(both - both.mean(1, keepdim=True), dim=1)


def near_duplicates(features: Tensor, thumbnails: Tensor, labels: Tensor) -> Tensor:
    """(N, D) standardised features, (N, 2, 256) thumbnails, (N,) label numbers -> (N, N) bool."""
    cosine = normalize(features, dim=1) @ normalize(features, dim=1).T
    outline = torch.maximum(thumbnails[:, 0] @ thumbnails[:, 0].T, thumbnails[:, 0] @ thumbnails[:, 1].T)
    alike = (cosine > SAME_FEATURE) | (outline > SAME_OUTLINE)
    alike |= (cosine > BOTH_ALIKE[0]) & (outline > BOTH_ALIKE[1])
    return (cosine > SAME_PICTURE) | alike & (labels[:, None] == labels[None])


def groups_of(same: Tensor) -> list[int]:
    """(N, N) bool -> the group of each picture, named by its first member."""
    parent = list(range(len(same)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]
        return i

    for i, j in same.triu(1).nonzero().tolist():
        a, b = sorted((root(i), root(j)))
        parent[b] = a
    return [root(i) for i in range(len(parent))]


def split(rows: list[dict], seed: int) -> None:
    """Set "split" of each row ("train" or "test") by whole groups, and "label_seen" of each.

    Each package gives the same share. Labels that training would not see otherwise are tested half as often.
    """
    members = defaultdict(list)
    for row in rows:
        members[row["group"]].append(row)
    groups_with = Counter(label for rows_ in members.values() for label in {r["label"] for r in rows_})
    rng = random.Random(seed)
    for source in sorted({row["source"] for row in rows}):
        # A group belongs to the package of most of its members, so that it is dealt once.
        own = [
            g
            for g, rows_ in members.items()
            if Counter(r["source"] for r in rows_).most_common(1)[0][0] == source
        ]
        rng.shuffle(own)
        wanted = TEST_SHARE * sum(len(members[g]) for g in own)
        for group in own:
            rows_ = members[group]
            seen_elsewhere = all(groups_with[r["label"]] > 1 for r in rows_)
            test = wanted > 0 and len(rows_) <= LARGEST_TESTED and (seen_elsewhere or rng.random() < 0.5)
            wanted -= len(rows_) * test
            for row in rows_:
                row["split"] = "test" if test else "train"
    trained = {row["label"] for row in rows if row["split"] == "train"}
    for row in rows:
        row["label_seen"] = row["label"] in trained


def split_pictures(work: Path, seed: int = 0) -> None:
    """Add "group", "split", "label_seen" and, of cut-outs, "colour" to the rows of WORK/manifest.jsonl."""
    manifest = work / "manifest.jsonl"
    rows = read_json_lines(manifest)
    features = load_file(work / "features.safetensors")["layer4"][:, 0].float()  # (N, 1280): the clean views
    features = (features - features.mean(0)) / features.std(0)
    thumbnails = []
    for row in rows:
        picture = Image.open(work / row["path"]).convert("RGBA")
        thumbnails.append(thumbnail(picture))
        row["colour"] = main_colour(picture) if is_cut_out(picture, row["is_photo"]) else None
    numbers = {label: i for i, label in enumerate(sorted({row["label"] for row in rows}))}
    labels = torch.tensor([numbers[row["label"]] for row in rows])
    for row, group in zip(
        rows, groups_of(near_duplicates(features, torch.stack(thumbnails), labels)), strict=True
    ):
        row["group"] = group
    split(rows, seed)
    write_json_lines(manifest, rows)
    sizes = Counter(Counter(row["group"] for row in rows).values())
    print("groups by size:", dict(sorted(sizes.items())))
    print("test:", Counter(row["source"] for row in rows if row["split"] == "test"))
    print("test labels also in training:", sum(r["label_seen"] for r in rows if r["split"] == "test"))
