"""The files that an evaluation writes into a run folder, named after the manifest.

predictions-test.jsonl, metrics-test.json       for the run's own test manifest
predictions-test-NAME-1a2b3c4d.jsonl, …         for another manifest, NAME.jsonl; neither overwrites the other
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml

from epalm.errors import EPALMError, reason
from epalm.files import read_json_lines, write_atomic, write_json_lines
from train.data.benchmarks import Dataset
from train.data.manifest import Item


def result_name(out: Path, split: str, manifest: str) -> str:
    """The part of the file names that identifies a manifest: the split if it is the run's own manifest."""
    own = own_manifest(out, split)
    if own is None or resolved(own) == resolved(manifest):
        return split
    digest = sha256(resolved(manifest).encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return f"{split}-{Path(manifest).stem}-{digest}"


def own_manifest(out: Path, split: str) -> str | None:
    """The manifest that `metrics-SPLIT.json` belongs to: the training's, or else the first one evaluated."""
    try:
        settings = yaml.safe_load((out / "config.yaml").read_text(encoding="utf-8"))
        found = settings["data"][split]
        if isinstance(found, str):
            return found
    except (OSError, ValueError, LookupError, TypeError, yaml.YAMLError):
        pass  # no training in this folder
    try:
        found = json.loads((out / f"metrics-{split}.json").read_bytes())["manifest"]
        return found if isinstance(found, str) else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def resolved(manifest: str) -> str:
    return str(Path(manifest).resolve())


def write_predictions(
    path: Path, items: Sequence[Item], predictions: Mapping[str, str], samples: Mapping[str, float]
) -> None:
    """Write all predictions in the order of the items, with their scores."""
    rows = (
        {
            "id": item.id,
            "media": item.media,
            "prompt": item.prompt,
            "prediction": predictions[item.id],
            "answers": item.answers,
            "score": samples.get(item.id),
        }
        for item in items
    )
    write_json_lines(path, rows)


def read_predictions(path: Path) -> list[dict[str, Any]]:
    """The rows of a predictions file, in the order of the items.

    Raises:
        EPALMError: it cannot be read or is damaged.
    """
    try:
        return read_json_lines(path)
    except (OSError, EPALMError) as error:
        raise EPALMError(f"{path} is damaged ({reason(error)}): evaluate that run again.") from error


def write_submission(
    out: Path, split: str, dataset: Dataset, items: Sequence[Item], predictions: Mapping[str, str]
) -> Path:
    """Write the file for the benchmark's evaluation server; the benchmark must have one.

    Raises:
        EPALMError: an item's id is not one of the benchmark's.
    """
    assert dataset.submission is not None
    try:
        entries = [dataset.submission.entry(item, predictions[item.id]) for item in items]
    except ValueError as error:
        raise EPALMError(
            f"A submission to {dataset.title} needs the benchmark's numeric ids ({reason(error)}): use a "
            f"manifest made by `prepare {dataset.name}`."
        ) from error
    path = out / dataset.submission.name(split)
    write_atomic(path, [json.dumps(entries, ensure_ascii=False) + "\n"])
    return path
