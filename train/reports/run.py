"""Read the folder of a run, finished or not: settings, log, results, predictions."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from epalm.config import AdapterConfig
from epalm.errors import EPALMError
from epalm.files import read_json_lines

Row = dict[str, Any]
Keys = Mapping[str, Any]  # key -> the types that its value may have

SHOWN = 6  # samples per kind

# What the page needs of the rows and files.
NUMBER = int | float
LOGGED: Mapping[str, Keys] = {
    "step": dict.fromkeys(("epoch", "loss", "lr", "seconds"), NUMBER)
    | {"step": int, "prompt_lr": NUMBER | None},
    "epoch": {"epoch": NUMBER, "split": str, "metrics": dict},
}
PREDICTED: Keys = {
    "id": str,
    "media": str,
    "prompt": str | None,
    "prediction": str,
    "answers": list,
    "score": NUMBER | None,
}
MEASURED: Keys = {"metrics": dict, "count": int, "absent": dict}
COST: Keys = {"device": str} | dict.fromkeys(
    ("seconds", "samples", "processes", "peak_memory_mb", "trained_parameters", "frozen_parameters"), NUMBER
)


@dataclass(frozen=True)
class Run:
    """The content of a run's folder so far."""

    config: str | None
    steps: list[Row]
    epochs: list[Row]
    metrics: dict[str, Row]  # by split
    predictions: dict[str, list[Row]]  # by split
    cost: Row | None
    modality: str | None  # of the adapter


def read(folder: Path) -> Run:
    """Read what there is of a run.

    Raises:
        EPALMError: there is nothing, or a file is damaged or was not written by a training.
    """
    if not folder.is_dir():
        raise EPALMError(f"{folder} is not a folder: give the folder of a training.")
    config, log, costs = (folder / name for name in ("config.yaml", "log.jsonl", "cost.json"))
    metrics, predictions = by_split(folder, "metrics-*.json"), by_split(folder, "predictions-*.jsonl")
    if not (config.exists() or log.exists() or metrics or predictions):
        raise EPALMError(
            f"{folder} is not the folder of a run: it has no config.yaml, no log.jsonl and no results."
        )
    logged = rows(log, {"kind": str}, LOGGED)
    adapter = next(
        (path for part in ("best", "last") if (path := folder / part / "config.json").exists()), None
    )
    return Run(
        config=config.read_text(encoding="utf-8") if config.exists() else None,
        # A resumed training repeats the steps since its last checkpoint; the later row counts.
        steps=latest((row for row in logged if row["kind"] == "step"), "step"),
        epochs=latest((row for row in logged if row["kind"] == "epoch"), "epoch", "split"),
        metrics={split: parsed(path, MEASURED) for split, path in metrics.items()},
        predictions={split: latest(rows(path, PREDICTED), "id") for split, path in predictions.items()},
        cost=parsed(costs, COST) if costs.exists() else None,
        modality=AdapterConfig.load(adapter).task.modality if adapter else None,
    )


def by_split(folder: Path, pattern: str) -> dict[str, Path]:
    """Files that match a pattern, by the split in their names, sorted."""
    before, after = pattern.split("*")
    return {path.name[len(before) : -len(after)]: path for path in sorted(folder.glob(pattern))}


def rows(path: Path, keys: Keys, kinds: Mapping[str, Keys] | None = None) -> list[Row]:
    """The JSON lines of a file, empty if it is missing; ignores a last line that is still being written.

    Args:
        keys: that every row needs.
        kinds: further ones by the row's "kind".
    Raises:
        EPALMError: a line is not JSON, or lacks some of the keys.
    """
    found = []
    for number, row in enumerate(read_json_lines(path) if path.exists() else [], 1):
        row = checked(row, keys, f"{path}:{number}")
        found.append(checked(row, (kinds or {}).get(row.get("kind", ""), {}), f"{path}:{number}"))
    return found


def parsed(path: Path, keys: Keys) -> Row:
    """The object in a JSON file; raises like `rows`."""
    try:
        return checked(json.loads(path.read_bytes()), keys, str(path))
    except ValueError as error:
        raise EPALMError(f"{path} is damaged: it is not valid JSON ({error}).") from None


def checked(row: Any, keys: Keys, where: str) -> Row:
    """A row with these keys; EPALMError, which begins with `where`, if it is something else."""
    if not isinstance(row, dict):
        raise EPALMError(f"{where} is not a JSON object: it was not written by a training.")
    for key, kind in keys.items():
        if key not in row or not isinstance(row[key], kind):
            raise EPALMError(f"{where} has no usable '{key}': it was not written by a training.")
    return row


def latest(rows: Iterable[Row], *keys: str) -> list[Row]:
    """The last row for each key, in order of first occurrence."""
    return list({tuple(row[key] for key in keys): row for row in rows}.values())


def choose(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The samples to show, independent of the order of rows; ties are broken at random."""
    if len(rows) <= SHOWN:
        return {"All predictions": list(rows)}
    mixed = mix(rows)
    ranked = sorted((row for row in mixed if row["score"] is not None), key=lambda row: row["score"])
    best = sorted(ranked, key=lambda row: -row["score"])
    kinds = {"Best": best[:SHOWN], "Worst": ranked[:SHOWN], "Random": mixed[-SHOWN:]}
    return {kind: chosen for kind, chosen in kinds.items() if chosen}


def mix(rows: Sequence[Row]) -> list[Row]:
    """Shuffle in a fixed way, by the hash of the id."""
    return sorted(rows, key=lambda row: sha256(json.dumps(row["id"]).encode()).digest())
