"""Measured parts of a README: what a script writes between two marks, so that nobody types numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from train.manifest import write_atomic


def write_between(file: Path, name: str, lines: Sequence[str]) -> None:
    """Replace what `file` has between the marks of `name`; without marks they are put at its end.

    Raises:
        EPALMError: the file cannot be written.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    written = file.read_text(encoding="utf-8") if file.exists() else ""
    before, _, rest = written.partition(begin)
    after = rest.partition(end)[2]
    write_atomic(file, ["\n".join([before + begin, *lines, end + after])])
