"""How files are written and read here: they appear whole or not at all, and survive being killed.

write_json(Path("report.json"), report)
with atomic(Path("checkpoint.pt")) as file:
    torch.save(state, file)
with JsonLines(Path("log.jsonl")) as log:
    log.add({"step": 1})
rows = read_json_lines(Path("log.jsonl"))
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Self

from epalm.errors import EPALMError, reason

BLOCK = 1 << 16  # bytes read at a time where a file is searched from its end


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a write that fails, as on a full disk, into an EPALMError that names the file or folder."""
    try:
        yield
    except OSError as error:
        raise EPALMError(f"{path} cannot be written ({error.strerror or error}).") from error


@contextmanager
def atomic(path: Path, part: Path | None = None) -> Iterator[BinaryIO]:
    """A file to write to that takes the place of `path` at the end, synced to the disk.

    Whatever stops the process or the machine meanwhile, `path` is the former file or the new one.

    Args:
        part: where it grows, on the same disk; PATH.part if None.
    Raises:
        OSError: the folder or the file cannot be written.
    """
    part = part or path.with_name(f"{path.name}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    with part.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def write_atomic(path: Path, parts: Iterable[str]) -> None:
    """Write text as `atomic` does.

    File names that are not Unicode have surrogates; they are written as JSON's own escapes, so that they come
    back the same.

    Raises:
        EPALMError: the folder or the file cannot be written.
    """
    with writing(path), atomic(path) as file:
        file.writelines(part.encode("utf-8", "backslashreplace") for part in parts)


def write_json(path: Path, content: Any, indent: int = 1) -> None:
    """Write one JSON value as `write_atomic` does."""
    write_atomic(path, [json.dumps(content, indent=indent) + "\n"])


def write_json_lines(path: Path, rows: Iterable[Any]) -> None:
    """Write a JSON value per line as `write_atomic` does."""
    write_atomic(path, (json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


class JsonLines:
    """A file of JSON lines that grows by one at a time; a truncated last line is cut off first.

    Raises:
        EPALMError: it cannot be written, now or when a line is added.
    """

    def __init__(self, path: Path):
        self.path = path
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a+b") as file:
                file.truncate(last_line_end(file))
            # Unbuffered: a line that finds no room is not tried again at the end.
            self.file = path.open("ab", buffering=0)

    def add(self, row: Any) -> None:
        """Write a line at once."""
        line = memoryview((json.dumps(row) + "\n").encode())
        with writing(self.path):
            while line:  # a full disk may take a part
                line = line[self.file.write(line) :]

    def close(self) -> None:
        self.file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def read_json_lines(path: Path) -> list[Any]:
    """The rows of a file; a truncated last line, which is being written or was cut off, is left out.

    Raises:
        OSError: it cannot be read.
        EPALMError: another line is not JSON.
    """
    content = path.read_bytes()
    rows = []
    for number, line in enumerate(content[: whole_lines(content)].split(b"\n")[:-1], 1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise EPALMError(
                f"{path}:{number} is not valid JSON ({reason(error)}): it is damaged."
            ) from error
    return rows


def whole_lines(content: bytes) -> int:
    """How many of these bytes are complete lines."""
    return content.rfind(b"\n") + 1


def last_line_end(file: BinaryIO) -> int:
    """Where the last complete line of a file ends; only what follows it is read, and a block before."""
    end = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - BLOCK)
        file.seek(start)
        if whole := whole_lines(file.read(end - start)):
            return start + whole
        end = start
    return 0


def sha256_of(file: Path | BinaryIO) -> str:
    """The hexadecimal checksum of a file.

    Raises:
        OSError: it cannot be read.
    """
    if isinstance(file, Path):
        with file.open("rb") as opened:
            return sha256_of(opened)
    return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
