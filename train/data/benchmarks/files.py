"""Find the files of a benchmark by name, in any folder.

files = Files(Path("downloads/vqa"), "image")
rows = read_json(files.find("v2_mscoco_val2014_annotations.json"))
path = files.media("COCO_val2014_000000391895")  # .jpg, or any other kind of picture
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from epalm.errors import EPALMError, reason
from train.data.text import open_text
from train.progress import bar

# If a name exists with several extensions, the first one listed here wins.
EXTENSIONS = {
    "image": (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
    "video": (".mp4", ".avi", ".webm", ".mkv", ".mov", ".m4v", ".flv", ".3gp"),
    "audio": (".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".aac", ".mp4", ".webm", ".mkv"),
}
ANNOTATIONS = (".json", ".csv", ".txt", ".tsv", ".jsonl")


class Files:
    """The annotation files under `source`, and the media under it and under further folders.

    Args:
        modality: "image", "video" or "audio": which files are media.
        media_folders: further folders with media.

    Requested media that do not exist are collected in `missing`.

    Raises:
        EPALMError: one of the folders does not exist or cannot be read.
    """

    def __init__(self, source: Path, modality: str, media_folders: Sequence[Path] = ()):
        self.source = source
        self.missing: set[str] = set()
        self.notes: list[str] = []  # sentences about entries that a reader left out
        self.annotations: list[Path] = []
        self._media: dict[str, tuple[int, str]] = {}  # stem -> rank of its extension, path
        kinds = {extension: rank for rank, extension in enumerate(EXTENSIONS[modality])}
        for folder in (source, *media_folders):
            for path in self._walk(folder):
                stem, extension = os.path.splitext(os.path.basename(path))
                rank = kinds.get(extension.lower())
                if rank is not None and (stem not in self._media or rank < self._media[stem][0]):
                    self._media[stem] = rank, path
                elif folder is source and extension.lower() in ANNOTATIONS:
                    self.annotations.append(Path(path))

    def _walk(self, folder: Path) -> Iterator[str]:
        with bar(f"looking for files under {folder}", unit=" files") as shown:
            for path in walk(folder):
                shown.update()
                yield path

    def all_media(self) -> list[Path]:
        """Paths of all media, sorted."""
        return sorted(Path(path) for _, path in self._media.values())

    def find(self, name: str) -> Path | None:
        """The annotation file of this name closest to the top folder; None if there is none.

        Raises:
            EPALMError: several are equally close.
        """
        found = [path for path in self.annotations if path.name == name]
        nearest = min((len(path.parts) for path in found), default=0)
        found = [path for path in found if len(path.parts) == nearest]
        if len(found) > 1:
            raise EPALMError(
                f"Both {found[0]} and {found[1]} exist; give --source the folder with the right one, and "
                "--media the folder with the media if it is elsewhere."
            )
        return found[0] if found else None

    def media(self, *stems: str) -> str:
        """Path of the file that has one of these names (without extension); if there is none, the first name,
        which is added to `missing`.
        """
        for stem in stems:
            if stem in self._media:
                return self._media[stem][1]
        self.missing.add(stems[0])
        return stems[0]


def walk(folder: Path) -> Iterator[str]:
    """All files under a folder in a fixed order, following links; hidden files are skipped."""

    def refuse(error: OSError) -> None:
        raise EPALMError(f"{error.filename} cannot be read as a folder: {error.strerror}.") from error

    seen: set[tuple[int, int]] = set()  # links may form cycles
    for here, folders, names in os.walk(os.path.abspath(folder), onerror=refuse, followlinks=True):
        status = os.stat(here)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (os.path.join(here, name) for name in sorted(names) if not name.startswith("."))


def read_json(path: Path, hook: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """The content of a JSON file; `hook` may replace each object while it is parsed.

    Raises:
        EPALMError: it cannot be read or is not JSON.
    """
    try:
        with open_text(path) as file, bar(f"reading {path.name}", unit=" entries") as shown:

            def counted(value: dict[str, Any]) -> Any:
                shown.update()
                return value if hook is None else hook(value)

            return json.load(file, object_hook=counted)
    except OSError as error:
        raise EPALMError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise EPALMError(
            f"{path} is damaged or incomplete: it is not valid JSON ({reason(error)}); download it again."
        ) from error


def read_lines(path: Path) -> list[str]:
    """The stripped lines of a text file, without empty ones.

    Raises:
        EPALMError: it cannot be read or is not text.
    """
    try:
        with open_text(path) as file:
            return [line for line in map(str.strip, file) if line]
    except OSError as error:
        raise EPALMError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise EPALMError(f"{path} is not UTF-8 text ({reason(error)}); download it again.") from error


def read_csv(path: Path, *columns: str) -> list[dict[str, str]]:
    """The rows of a CSV file whose header has at least `columns`.

    Raises:
        EPALMError: it cannot be read, lacks a column, or has a row that is too short.
    """
    try:
        with open_text(path, newline="") as file:
            reader = csv.DictReader(file, strict=True)
            rows = list(reader)
            header = reader.fieldnames or ()
    except OSError as error:
        raise EPALMError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, csv.Error) as error:
        raise EPALMError(
            f"{path} is damaged or incomplete: it is not valid CSV ({reason(error)}); download it again."
        ) from error
    for column in columns:
        if column not in header:
            raise EPALMError(f"{path} has no column '{column}': its header is {','.join(header)!r}.")
        for number, row in enumerate(rows, 1):
            if row[column] is None:
                raise EPALMError(f"{path} has no '{column}' in row {number}; download it again.")
    return rows


def records(path: Path, rows: Any, **keys: type | tuple[type, ...]) -> list[dict[str, Any]]:
    """The rows of a JSON file, after checking that each is an object with `keys` of these types.

    Raises:
        EPALMError: it is not such a list.
    """
    if not isinstance(rows, list):
        raise EPALMError(f"{path} is not what its name says: it has no list of entries.")
    for number, row in enumerate(rows, 1):
        for key, kind in keys.items():
            if not isinstance(row, dict) or not isinstance(row.get(key), kind):
                raise EPALMError(f"{path} has no usable '{key}' in entry {number}; download it again.")
    return rows


def member(path: Path, content: Any, key: str) -> Any:
    """The value of a top-level key of a JSON file; EPALMError if there is no such key."""
    if not isinstance(content, dict) or key not in content:
        raise EPALMError(f"{path} is not what its name says: it has no '{key}'.")
    return content[key]
