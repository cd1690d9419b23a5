"""Benchmarks: official files -> items per split. The paper's seven, small public sets, and own data.

dataset = DATASETS["gqa"]
files = Files(Path("downloads/gqa"), dataset.modality)
items = dataset.read(files)["testdev"]
"""

from __future__ import annotations

import difflib

from epalm.errors import EPALMError
from train.data.benchmarks.audiocaps import AUDIOCAPS
from train.data.benchmarks.base import Dataset, Task
from train.data.benchmarks.coco_caption import COCO_CAPTION
from train.data.benchmarks.daquar import DAQUAR
from train.data.benchmarks.esc50 import ESC10, ESC50
from train.data.benchmarks.files import Files
from train.data.benchmarks.flickr8k import FLICKR8K
from train.data.benchmarks.gqa import GQA
from train.data.benchmarks.msrvtt_caption import MSRVTT_CAPTION
from train.data.benchmarks.own import OWN
from train.data.benchmarks.urbansound8k import URBANSOUND8K
from train.data.benchmarks.video_qa import MSRVTT_QA, MSVD_QA
from train.data.benchmarks.vqa_v2 import VQA_V2

__all__ = ["DATASETS", "OWN", "PAPER", "SMALL", "Dataset", "Files", "Task", "find_dataset"]

PAPER = {
    dataset.name: dataset
    for dataset in (VQA_V2, GQA, COCO_CAPTION, MSRVTT_CAPTION, MSRVTT_QA, MSVD_QA, AUDIOCAPS)
}
SMALL = {dataset.name: dataset for dataset in (FLICKR8K, DAQUAR, ESC10, ESC50, URBANSOUND8K)}
DATASETS = PAPER | SMALL


def find_dataset(name: str) -> Dataset:
    """The benchmark or own-data set of this name; EPALMError naming the closest one if there is none."""
    known = DATASETS | OWN
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
        raise EPALMError(
            f"{name!r} is not a benchmark: did you mean {close}? Choose from {', '.join(known)}."
        )
    return known[name]
