"""What a benchmark consists of: a description, and a function from official files to items."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Literal

from epalm.errors import EPALMError
from train.data.benchmarks.files import Files
from train.data.manifest import Item

CAPTION_METRICS = ("CIDEr", "BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE-L", "SPICE")


@dataclass(frozen=True)
class Task:
    """What is predicted, from what, and how it is scored.

    Fields:
        metrics: reported metrics; the first one selects the best epoch.
    """

    name: str
    title: str
    task: Literal["caption", "qa"]
    modality: Literal["image", "video", "audio"]
    metrics: tuple[str, ...]


@dataclass(frozen=True)
class Submission:
    """The file format of a benchmark's evaluation server: a JSON list with an entry per item.

    Fields:
        name: split -> name of the file.
        entry: item and prediction -> entry.
    """

    name: Callable[[str], str]
    entry: Callable[[Item, str], dict[str, Any]]


@dataclass(frozen=True)
class Dataset(Task):
    """A benchmark.

    Fields:
        splits: manifest -> description. The original implementation's files can have other splits.
        download: which files are needed and where they are, in one sentence.
        layout: where the official archives put them; any other folders work as well.
        read: files -> items of every split whose files are there.
        needs: manifest -> the file that it requires.
        submission: format of the evaluation server; None if there is no server.
    """

    splits: Mapping[str, str]
    download: str
    layout: tuple[str, ...]
    read: Callable[[Files], dict[str, list[Item]]]
    needs: Mapping[str, str] = field(default_factory=dict)
    submission: Submission | None = None


def caption_items(split: str, captions: Mapping[tuple[str, ...], Sequence[str]], files: Files) -> list[Item]:
    """Items of a caption split, as in the original: one item per caption for training, one item per file with
    all its captions as references for evaluation.

    Args:
        captions: possible names of the file, without extension -> its captions. The first name is the id.
    """
    items = []
    for stems, texts in captions.items():
        media, texts = files.media(*stems), tuple(text.strip() for text in texts)
        if split.startswith("train"):
            items += [Item(f"{stems[0]}-{i}", media, None, (text,)) for i, text in enumerate(texts)]
        else:
            items.append(Item(stems[0], media, None, texts))
    return items


def question_type(question: str) -> dict[str, str]:
    """Group a question by its first word, for benchmarks that provide no question types."""
    return {"question_type": question.lower().split(maxsplit=1)[0]} if question.strip() else {}


def place(name: str) -> float:
    """A number in [0, 1) from the hash of a name, for a random split that is the same everywhere and does not
    depend on the other items.
    """
    return int.from_bytes(sha256(name.encode("utf-8", "surrogateescape")).digest()[:6], "big") / 256**6


def by_fold(found: Iterable[tuple[str, Item]], held_out: int) -> dict[str, list[Item]]:
    """Splits of a benchmark that has folds: `held_out` is test, the last of the others is val.

    Raises:
        EPALMError: a fold is not a number.
    """
    folds: dict[int, list[Item]] = {}
    for fold, item in found:
        if not fold.strip().isdecimal():
            raise EPALMError(f"The clip {item.id} is in fold {fold!r}, but folds must be numbers.")
        folds.setdefault(int(fold), []).append(item)
    test = folds.pop(held_out, [])
    val = folds.pop(max(folds)) if len(folds) > 1 else []
    train = [item for fold in sorted(folds) for item in folds[fold]]
    splits = {"train": train, "val": val, "test": test}
    return {split: items for split, items in splits.items() if items}
