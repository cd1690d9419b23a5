"""A work folder of the starter's image adapters, small and random: what `StarterData` reads.

from tests.helpers.starter_work import debian, full

data = StarterData(full(tmp_path))
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from train.starter.pictures import batches
from train.starter.pictures.features import STORED

HIDDEN = 1000.0  # what the grid of a held-out view is full of
SCENES = ("two dogs run over the green grass", "a man is riding a bike", "a girl holds a red ball")


def lines(rows: list[dict], file: Path) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def features(shape: tuple[int, ...], held_out: list[int] | None = None) -> dict[str, torch.Tensor]:
    tensors = {f"layer{i}": 2 * torch.rand(*shape, batches.WIDTHS[i]).half() for i in STORED}
    tensors["layer6"][held_out or []] = HIDDEN
    return tensors


def debian(work: Path) -> Path:
    """Eight labelled pictures of two views, the last two for testing, and a classifier."""
    torch.manual_seed(0)
    rows = []
    for i in range(8):
        label = ("cat", "dog", "cup", "car")[i % 4]
        row = {"path": f"{i}.png", "label": label, "caption": f"a {label}", "category": "toy"}
        rows.append(row | {"is_photo": True, "split": "train" if i < 6 else "test", "label_seen": True})
    lines(rows, work / "manifest.jsonl")
    head = {"head.weight": torch.randn(1000, 1280) / 6, "head.bias": torch.zeros(1000)}
    save_file(features((8, 2), [6, 7]) | head, work / "features.safetensors")
    return work


def full(work: Path) -> Path:
    """Beside these, three scenes and three things, one more of each held out, rooms, composed pictures."""
    empty = {"split": "train", "captions": [], "class": None, "questions": [], "views": 2}
    rows = [empty | {"kind": "scene", "captions": [text]} for text in SCENES]
    rows.append(empty | {"kind": "scene", "captions": ["a secret"], "split": "test"})
    rows += [empty | {"kind": "class", "class": c} for c in (0, 1, 2)]
    rows.append(empty | {"kind": "class", "class": 999, "split": "test"})
    rows += [empty | {"kind": "room", "questions": [["what is on the table?", "lamp"]]} for _ in range(2)]
    lines(rows, work / "photo-features.jsonl")
    save_file(features((20,), [6, 7, 14, 15]), work / "photo-features.safetensors")
    composed = [
        {"way": "count", "pictures": [0], "labels": ["cat"], "number": 3},
        {"way": "down", "pictures": [0, 1], "labels": ["cat", "dog"]},
    ]
    lines(composed, work / "composed.jsonl")
    save_file(features((2,)), work / "composed-features.safetensors")
    return debian(work)
