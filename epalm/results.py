"""A file of JSON lines with one row per processed file, from which a later run resumes.

with Results(Path("captions.jsonl"), {"task": "caption", "model": "starter"}) as results:
    if not results.has("photo.jpg"):
        results.add("photo.jpg", text="a cat")
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from epalm.errors import EPALMError

ROW_BEGINS = b'{"file": '


class Results:
    """A file of JSON lines with one row per processed file, from which a later run resumes.

    A file is done if its last row with the same settings has a text and the file's size and time have not
    changed since. Files with an error are tried again; the same error is not written twice. Rows are only
    appended; if a file has several rows, the last one counts.

    Args:
        settings: what the texts depend on (model, question, …); written to every row unless None.
        others: files of other processes, whose rows count as well; they are only read.
    Raises:
        EPALMError: the file cannot be written or contains something other than such rows.
    """

    def __init__(self, path: Path, settings: dict[str, Any], others: Sequence[Path] = ()):
        self.path = path
        self.settings = settings
        self.rows: dict[str, dict[str, Any]] = {}  # last row of each file with these settings
        try:
            with path.open("a+b") as file:
                self._read(file)
            self.file = path.open("ab")
        except OSError as error:
            raise self._unwritable(error) from error
        for other in others:
            for row in rows_of(other):
                known = self.rows.get(os.path.normpath(row["file"]))
                if known is None or is_better(row, known):
                    self._remember(row)

    def _read(self, file: BinaryIO) -> None:
        """Read the existing rows and drop a truncated last line."""
        file.seek(0)
        end = 0  # of the complete rows
        for number, line in enumerate(file, 1):
            row = parsed(line)
            whole = line.endswith(b"\n")
            cut_off = not whole and ROW_BEGINS[: len(line)] == line[: len(ROW_BEGINS)]
            if row is None and not cut_off:
                raise EPALMError(
                    f"{self.path} has something other than results in line {number}; choose another name "
                    "with --out."
                )
            if row is not None:
                self._remember(row)
                end += len(line)
                if not whole:
                    file.write(b"\n")
                    end += 1
        file.truncate(end)

    def has(self, path: str) -> bool:
        """Whether the file was processed with these settings and has not changed since."""
        row = self.rows.get(os.path.normpath(path), {})
        return "text" in row and stamp(path).items() <= row.items() and os.path.exists(path)

    def add(self, path: str, **values: Any) -> None:
        """Append a row about a file; `values` has its "text" or an "error"."""
        known = self.rows.get(os.path.normpath(path), {})
        if "error" in values and known.get("error") == values["error"]:
            return
        settings = {name: value for name, value in self.settings.items() if value is not None}
        row = {"file": path, **values, **settings, **stamp(path)}
        self._remember(row)
        try:
            self.file.write(json_line(row).encode("utf-8", "backslashreplace") + b"\n")
            self.file.flush()
        except OSError as error:
            raise self._unwritable(error) from error

    def _remember(self, row: dict[str, Any]) -> None:
        if all(row.get(name) == value for name, value in self.settings.items()):
            self.rows[os.path.normpath(row["file"])] = row

    def _unwritable(self, error: OSError) -> EPALMError:
        return EPALMError(f"{self.path} cannot be written ({error.strerror or error}).")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.close()


def parsed(line: bytes) -> dict[str, Any] | None:
    """The row in a line; None if there is none."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("file"), str) else None


def rows_of(part: Path) -> Iterator[dict[str, Any]]:
    """The complete rows of a file that another process may still be writing."""
    try:
        with part.open("rb") as file:
            for line in file:
                if (row := parsed(line)) is not None:
                    yield row
    except OSError as error:
        raise EPALMError(f"{part} cannot be read ({error.strerror or error}).") from error


def is_better(row: dict[str, Any], known: dict[str, Any]) -> bool:
    """Whether a row replaces another process's row: it has a text instead of an error, or a newer file."""
    return ("text" in row, row.get("modified", 0)) > ("text" in known, known.get("modified", 0))


def json_line(row: dict[str, Any]) -> str:
    """A row as readable JSON, to be encoded with `backslashreplace`: that turns the surrogates of file names
    that are not Unicode into JSON escapes.
    """
    return json.dumps(row, ensure_ascii=False)


def stamp(path: str) -> dict[str, float]:
    """A file's size in bytes and modification time in seconds, to detect changes."""
    try:
        status = os.stat(path)
    except OSError:
        return {}
    return {"bytes": status.st_size, "modified": round(status.st_mtime, 3)}
