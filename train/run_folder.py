"""The folder of a training: its settings, log, adapters and cost, and the lock on it.

config.yaml     all settings, defaults included
log.jsonl       a row per step (loss, rates, items/s, memory) and per validation (metrics)
checkpoint.pt   see train.checkpoint
last/, best/    adapter folders
cost.json       seconds, items, device, peak memory, parameters
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from epalm.adapter import Adapter
from epalm.errors import EPALMError
from epalm.files import JsonLines, read_json_lines, write_json, write_json_lines
from train.settings import Settings, save_settings


class RunFolder:
    """The files that a training writes.

    Args:
        writes: whether this is the process that writes; in the others all methods do nothing.
    """

    def __init__(self, path: Path, writes: bool = True):
        self.path, self.writes = path, writes
        self.log_file = path / "log.jsonl"

    def begin(self, settings: Settings) -> None:
        """Prepare the folder for a new training."""
        if self.writes:
            self.path.mkdir(parents=True, exist_ok=True)
            save_settings(settings, self.path / "config.yaml")
            self.log_file.unlink(missing_ok=True)

    def go_on(self, step: int, adapter: Adapter) -> None:
        """Prepare the folder for continuing after `step`: drops everything logged later."""
        if self.writes:
            logged = read_json_lines(self.log_file) if self.log_file.exists() else []
            write_json_lines(self.log_file, [row for row in logged if row["step"] <= step])
            adapter.save(self.path / "last")  # it may have been killed after writing the checkpoint

    def log(self, row: Mapping[str, Any]) -> None:
        """Add a row to log.jsonl; EPALMError if it cannot be written."""
        if self.writes:
            with JsonLines(self.log_file) as log:
                log.add(row)

    def keep_best(self, adapter: Adapter, metrics: Mapping[str, float]) -> None:
        """Save best/, with the metrics in its config.json."""
        if self.writes:
            config = adapter.config
            rounded = {key: round(value, 4) for key, value in metrics.items()}
            adapter.config = dataclasses.replace(config, metrics=rounded)
            adapter.save(self.path / "best")
            adapter.config = config

    def write(self, name: str, content: Any) -> Path:
        """Write a JSON file of this name."""
        if self.writes:
            write_json(self.path / name, content)
        return self.path / name


@contextmanager
def exclusive(out: Path) -> Iterator[None]:
    """Lock a run folder for this command, which may have several processes.

    Raises:
        EPALMError: another command is using it, or it cannot be written.
    """
    if int(os.environ.get("RANK", "0")):  # the first process holds the lock for all
        yield
        return
    lock = FileLock(out / ".lock")
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise EPALMError(
            f"Another command is using {out}: wait until it has finished, or choose another folder with "
            "--set out=FOLDER."
        ) from error
    except OSError as error:
        raise EPALMError(f"The run folder {out} cannot be written ({error.strerror}).") from error
    try:
        yield
    finally:
        lock.release()
