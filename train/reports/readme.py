"""Measured parts of a README, written by a script between two marks so that nobody types numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from epalm.errors import EPALMError
from epalm.files import write_atomic


def write_between(file: Path, name: str, lines: Sequence[str]) -> None:
    """Replace the text between the marks of `name` in `file`; if there are no marks, append it with marks.

    Raises:
        EPALMError: the file cannot be written, or has one mark without the other.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    written = file.read_text(encoding="utf-8") if file.exists() else ""
    before, begins, rest = written.partition(begin)
    _, ends, after = rest.partition(end)
    if begins and not ends:
        raise EPALMError(f"{file} has the mark {begin} but no {end} after it: add it, or remove both.")
    write_atomic(file, ["\n".join([before + begin, *lines, end + after])])
