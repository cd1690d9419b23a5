"""Text files as people have them: UTF-8, with or without a byte order mark, or UTF-16 with one."""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import TextIO

# UTF-32's little-endian mark begins with UTF-16's, so it comes first.
WIDE = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
MARK = "\ufeff"  # a byte order mark in the middle of a text, where files were joined


def open_text(path: Path, newline: str | None = None, errors: str = "strict") -> TextIO:
    """Open a text file to read it; a byte order mark says its encoding and is not part of the text.

    Raises:
        OSError: as `open`.
    """
    return path.open(encoding=encoding_of(path), newline=newline, errors=errors)


def encoding_of(path: Path) -> str:
    """UTF-8 but for files that begin with another encoding's mark and have more than that."""
    with path.open("rb") as file:
        head = file.read(5)
    for mark, encoding in WIDE.items():
        if head.startswith(mark) and len(head) > len(mark):
            return encoding
    return "utf-8-sig"
