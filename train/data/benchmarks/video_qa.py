"""MSRVTT-QA and MSVD-QA: questions generated from captions of two sets of videos, with one answer each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from epalm.errors import EPALMError
from train.data.benchmarks import original
from train.data.benchmarks.base import Dataset, question_type
from train.data.benchmarks.files import Files, read_json, read_lines, records
from train.data.manifest import Item

MAPPING = "youtube_mapping.txt"
SPLITS = {
    "train": "training questions",
    "val": "validation questions",
    "test": "test questions, on which results are reported",
}
DOWNLOAD = "train_qa.json, val_qa.json and test_qa.json are linked from https://github.com/xudejing/video-question-answering"


def read_msrvtt(files: Files) -> dict[str, list[Item]]:
    """The official splits or the original's lists."""
    splits = official(files, lambda number: (f"video{number}",))
    return splits or original.read_questions(files, "video", r"video\d+", grouped=True)


def read_msvd(files: Files) -> dict[str, list[Item]]:
    """The official splits, whose videos are named vid1 or by their YouTube id, or the original's lists."""
    youtube = mapping(files)
    splits = official(files, lambda number: (f"vid{number}", *youtube.get(f"vid{number}", ())))
    return splits or original.read_questions(files, "video", r"(?!video\d+$).+", grouped=True)


def official(files: Files, stems: Callable[[int], tuple[str, ...]]) -> dict[str, list[Item]]:
    """The splits that have a file; `stems` maps a video's number to its possible names."""
    return {
        split: [
            Item(
                str(row["id"]),
                files.media(*stems(row["video_id"])),
                row["question"],
                (row["answer"],),
                question_type(row["question"]),
            )
            for row in records(path, read_json(path), id=int, video_id=int, question=str, answer=str)
        ]
        for split in SPLITS
        if (path := files.find(f"{split}_qa.json"))
    }


def mapping(files: Files) -> dict[str, tuple[str]]:
    """ "vid1" -> the video's name in the official archive of MSVD, "-4wsuPCjDBc_5_15"."""
    path = files.find(MAPPING)
    return {} if path is None else parse_mapping(path)


def parse_mapping(path: Path) -> dict[str, tuple[str]]:
    """Lines of "YOUTUBE-ID_START_END vidN"; EPALMError for others."""
    names = {}
    for number, line in enumerate(read_lines(path), 1):
        words = line.split()
        if len(words) != 2:
            raise EPALMError(f"{path}:{number} is not a pair such as '-4wsuPCjDBc_5_15 vid1'.")
        names[words[1]] = (words[0],)
    return names


MSRVTT_QA = Dataset(
    name="msrvtt_qa",
    title="MSRVTT-QA",
    task="qa",
    modality="video",
    metrics=("exact match",),
    splits=SPLITS,
    needs={split: f"{split}_qa.json" for split in SPLITS},
    download=f"{DOWNLOAD}, and the videos are those of MSR-VTT (see msrvtt_caption).",
    layout=("{train,val,test}_qa.json", "video/video0.mp4"),
    read=read_msrvtt,
)
MSVD_QA = replace(
    MSRVTT_QA,
    name="msvd_qa",
    title="MSVD-QA",
    download=f"{DOWNLOAD}, and YouTubeClips.tar with the videos from "
    "http://www.cs.utexas.edu/users/ml/clamp/videoDescription; youtube_mapping.txt is needed unless the "
    "videos are called vid1.avi and so on.",
    layout=("{train,val,test}_qa.json", MAPPING, "YouTubeClips/-4wsuPCjDBc_5_15.avi or video/vid1.avi"),
    read=read_msvd,
)
