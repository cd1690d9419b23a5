"""The files of a feature cache, and how they are identified: settings, shards, contents of files.

shard = read_shard(folder / "shards" / "NAME.json")  # None if it is damaged
refuse_other(folder, made_with, settings(encoder, recipe), layers)
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from epalm.config import EncoderConfig, FeatureLayer
from epalm.encoders.base import Encoder
from epalm.encoders.widths import Widths, parts
from epalm.errors import EPALMError
from epalm.files import sha256_of
from epalm.media.container import open_file

FORMAT = 1  # increased when the same settings would give other features
ADVICE = "use another folder for the cache, or remove this one."

Row = tuple[str, str]  # key of a file's content, view
Stamp = tuple[str, int, int]  # path, bytes, time of the last change in nanoseconds


@dataclass(frozen=True)
class Shard:
    """What NAME.json says about NAME.safetensors."""

    sha256: str
    rows: tuple[Row, ...]


def settings(encoder: EncoderConfig, recipe: dict[str, Any]) -> dict[str, Any]:
    """The settings that features depend on, as plain JSON values."""
    made_with = {
        "format": FORMAT,
        "encoder": {"id": encoder.id, "revision": encoder.revision},
        "recipe": recipe,
    }
    return json.loads(json.dumps(made_with))


def widths_of(made_with: dict[str, Any]) -> Widths:
    """The layers of a cache's encoder according to its cache.json; the widths are unknown."""
    return Widths([0] * max(made_with["depth"], max(made_with["layers"]) + 1), made_with["depth"])


def refuse_other(folder: Path, there: Any, here: dict[str, Any], entries: Sequence[FeatureLayer]) -> None:
    """EPALMError if a cache was made with other settings or lacks a layer."""
    for part in ("format", "encoder", "recipe"):
        theirs, ours = flat(there[part], part), flat(here[part], part)
        for name in sorted(theirs.keys() | ours.keys()):
            if theirs.get(name) != ours.get(name):
                raise EPALMError(
                    f"{folder} has features of another configuration ({name} is {theirs.get(name)!r} "
                    f"there and {ours.get(name)!r} here): {ADVICE}"
                )
    known = widths_of(there)
    held = {*there["layers"], *(layer - known.layers for layer in there["layers"] if layer < known.layers)}
    for entry in entries:
        if not set(parts(entry)) <= held:
            raise EPALMError(
                f"{folder} has layers {there['layers']} of an encoder with {there['depth']} layers, but this "
                f"configuration reads layer {entry}: {ADVICE}"
            )


def flat(value: Any, name: str) -> dict[str, Any]:
    """{"size": 224} under the name "recipe" -> {"recipe.size": 224}."""
    if not isinstance(value, dict):
        return {name: value}
    return {f"{name}.{key}": inner for key, inner in value.items()}


def read_made_with(folder: Path) -> dict[str, Any] | None:
    """What a cache's features were made with, from its cache.json; None if it is empty or not there.

    Raises:
        EPALMError: it is no folder, its name is not UTF-8, or cache.json is damaged or something else.
    """
    path = folder / "cache.json"
    if any("\udc80" <= letter <= "\udcff" for letter in str(folder)):
        raise EPALMError(f"The cache {folder} has a name that is not UTF-8: use another folder for it.")
    try:
        match content := json.loads(path.read_bytes()):
            case {
                "format": _,
                "encoder": dict(),
                "recipe": dict(),
                "layers": [int(), *_],
                "depth": int(),
                "weights": str(),
            }:
                return content
    except FileNotFoundError:
        return None
    except NotADirectoryError as error:
        raise EPALMError(f"The cache {folder} is a file: set data.cache to a folder.") from error
    except OSError as error:
        raise EPALMError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise EPALMError(f"{path} is damaged: remove the folder {folder}.") from error
    raise EPALMError(f"{path} does not say what features were made with: remove the folder {folder}.")


def read_shard(path: Path) -> Shard | None:
    """Read NAME.json; None if it is missing or does not match its name."""
    try:
        index = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    match index:
        case {"sha256": str(sha256), "rows": list(rows)} if shard_name(rows) == path.stem:
            return Shard(sha256, tuple((key, view) for key, view in rows))
    return None


def shard_name(rows: Sequence[Row]) -> str:
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:20]


def intact(path: Path, sha256: str) -> bool:
    """Whether a file exists and has this checksum."""
    try:
        return sha256_of(path) == sha256
    except FileNotFoundError:
        return False


def damaged(path: Path) -> EPALMError:
    """What is told of a shard that cannot be read."""
    return EPALMError(
        f"{path} is damaged or missing: run the features command again to encode its files again."
    )


def content_key(path: str) -> str:
    """The key of a file's content.

    Raises:
        EPALMError: it is missing or empty.
    """
    with open_file(path) as (file, _):
        return sha256_of(file)[:32]


def cached_widths(folder: Path) -> Widths:
    """Widths of an encoder's features according to a cache; 0 for layers that it does not have.

    Raises:
        EPALMError: the cache is empty or no folder, or its first shard is damaged.
    """
    made_with = read_made_with(folder)
    indices = (path for path in sorted(folder.glob("shards/*.json")) if read_shard(path))
    if made_with is None or (index := next(indices, None)) is None:
        raise EPALMError(
            f"The cache {folder} is empty: run `python -m train features` with the same settings."
        )
    path = index.with_suffix(".safetensors")
    try:
        with safe_open(path, "pt") as shard:
            held = {int(name): shard.get_slice(name).get_shape()[1] for name in shard.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise damaged(path) from error
    known = widths_of(made_with)
    return Widths((held.get(place, 0) for place in range(len(known))), known.layers)


def stamp_of(path: str) -> Stamp | None:
    """A file's path, size and modification time; None if it is gone."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return path, status.st_size, status.st_mtime_ns


def fingerprint(encoder: Encoder) -> str:
    """A hash of all weights and dtypes, since a folder of the same name may hold another encoder."""
    digest = hashlib.sha256()
    for name, weight in encoder.state_dict().items():
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def distinct(media: Iterable[str | Path]) -> list[str]:
    """Absolute paths without repeats, in order of first occurrence."""
    return list(dict.fromkeys(os.path.abspath(path) for path in media))
