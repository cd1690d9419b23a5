"""Open text files: UTF-8 with or without a byte order mark, or UTF-16 and UTF-32 with one."""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import TextIO

# UTF-32 first: its little-endian mark begins with UTF-16's.
WIDE = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
MARK = "\ufeff"  # byte order mark; inside a text if files were concatenated


def open_text(path: Path, newline: str | None = None, errors: str = "strict") -> TextIO:
    """Open a text file for reading; a byte order mark sets the encoding and is not part of the text.

    Raises:
        OSError: like `open`.
    """
    return path.open(encoding=encoding_of(path), newline=newline, errors=errors)


def encoding_of(path: Path) -> str:
    """UTF-8, unless the file begins with another encoding's byte order mark and has further content."""
    with path.open("rb") as file:
        head = file.read(5)
    for mark, encoding in WIDE.items():
        if head.startswith(mark) and len(head) > len(mark):
            return encoding
    return "utf-8-sig"
