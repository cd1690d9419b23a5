"""Own data, by what is predicted from what: settings name one of these where they would name a benchmark.

data: {dataset: own_image_caption, train: data/pets/train.jsonl, val: data/pets/val.jsonl}
"""

from __future__ import annotations

from typing import Literal

from train.data.benchmarks.base import CAPTION_METRICS, Task

MODALITIES: tuple[Literal["image", "video", "audio"], ...] = ("image", "video", "audio")

OWN = {
    task.name: task
    for modality in MODALITIES
    for task in (
        Task(f"own_{modality}_caption", f"Own {modality} captions", "caption", modality, CAPTION_METRICS),
        Task(f"own_{modality}_qa", f"Own {modality} questions", "qa", modality, ("exact match",)),
    )
}
