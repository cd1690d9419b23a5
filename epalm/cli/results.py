"""A file of JSON lines that grows by one per described file, and from which a later run goes on.

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
    """A file of JSON lines that grows by one per described file, and from which a later run goes on.

    A file is done if its last row under the same settings has a text and the file has not changed since, by
    its size and time. A row with an error is tried again, and the same error is not written twice. Rows are
    only ever added; of several rows about one file, the last one counts.

    Args:
        settings: what the texts depend on (model, question, …); every row has those that are not None.
        others: files of other processes, whose rows count as well; they are only read.
    Raises:
        EPALMError: it cannot be written, or holds something else than such rows.
    """

    def __init__(self, path: Path, settings: dict[str, Any], others: Sequence[Path] = ()):
        self.path = path
        self.settings = settings
        self.rows: dict[str, dict[str, Any]] = {}  # last row of each file under these settings
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
        """Take in the rows that are there. A truncated last line is dropped."""
        file.seek(0)
        end = 0  # of the complete rows
        for number, line in enumerate(file, 1):
            row = parsed(line)
            whole = line.endswith(b"\n")
            cut_off = not whole and ROW_BEGINS[: len(line)] == line[: len(ROW_BEGINS)]
            if row is None and not cut_off:
                raise EPALMError(
                    f"{self.path} has something else than results in line {number}; give --out another name."
                )
            if row is not None:
                self._remember(row)
                end += len(line)
                if not whole:
                    file.write(b"\n")
                    end += 1
        file.truncate(end)

    def has(self, path: str) -> bool:
        """Whether the file was described under these settings and is still the same."""
        row = self.rows.get(os.path.normpath(path), {})
        return "text" in row and stamp(path).items() <= row.items() and os.path.exists(path)

    def add(self, path: str, **values: Any) -> None:
        """Write a row about a file at once; `values` has its "text", or the "error" that came instead."""
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
    """The complete rows of a part, which another process may be writing to."""
    try:
        with part.open("rb") as file:
            for line in file:
                if (row := parsed(line)) is not None:
                    yield row
    except OSError as error:
        raise EPALMError(f"{part} cannot be read ({error.strerror or error}).") from error


def is_better(row: dict[str, Any], known: dict[str, Any]) -> bool:
    """Whether a row counts, and not one of another part: a text rather than an error, or a newer file."""
    return ("text" in row, row.get("modified", 0)) > ("text" in known, known.get("modified", 0))


def json_line(row: dict[str, Any]) -> str:
    """A row as readable JSON, for an encoder with `backslashreplace`: file names that are no Unicode have
    surrogates, which that turns into JSON's own escapes.
    """
    return json.dumps(row, ensure_ascii=False)


def stamp(path: str) -> dict[str, float]:
    """What tells that a file was changed: its size in bytes and its time in seconds."""
    try:
        status = os.stat(path)
    except OSError:
        return {}
    return {"bytes": status.st_size, "modified": round(status.st_mtime, 3)}
