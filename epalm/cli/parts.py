"""One run in several processes, on one machine or several: each describes its share of the files.

    torchrun --nproc-per-node 8 -m epalm caption holiday --out captions
    python -m epalm merge captions captions.jsonl

Each process writes its own part in the folder and reads the others', so a rerun with any number of processes
does only what is missing. `accelerate launch` works as well; on a CPU it starts a single process.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from epalm.cli.terminal import OK, say
from epalm.errors import EPALMError
from epalm.files import write_json_lines
from epalm.results import Results, is_better, rows_of

T = TypeVar("T")
ABOUT_A_FILE = ("file", "text", "error", "adapter", "seconds", "bytes", "modified")  # all else are settings


@dataclass(frozen=True)
class Share:
    """Which process this is, of how many."""

    rank: int = 0
    processes: int = 1
    local_rank: int = 0  # on its machine
    launched: bool = False  # by something that starts processes, even if it started one

    @classmethod
    def of_environment(cls) -> Share:
        """As set by `accelerate launch` or `torchrun`; one of one without them."""
        rank, processes, local = (os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
        # For a single process, which is all that it starts on a CPU, accelerate sets only variables of its
        # own.
        launched = processes is not None or "ACCELERATE_MIXED_PRECISION" in os.environ
        return cls(int(rank or 0), int(processes or 1), int(local or 0), launched)

    def of(self, items: Sequence[T]) -> list[T]:
        """Every n-th item. It does not depend on what is done already, which others may be changing."""
        return list(items[self.rank :: self.processes])

    def device(self) -> str | None:
        """The GPU of this process where there are several of both; None leaves the choice to others."""
        import torch

        gpus = torch.cuda.device_count()
        return f"cuda:{self.local_rank % gpus}" if self.processes > 1 and gpus else None


def open_results(out: Path, settings: dict[str, Any], share: Share) -> Results:
    """The results to go on with: a file, or this process' part in a folder.

    Raises:
        EPALMError: several processes and no folder, or it cannot be written.
    """
    if not share.launched:
        return Results(out, settings)
    if out.exists() and not out.is_dir():
        raise EPALMError(
            f"Several processes need a folder to write to, but {out} is a file; give another --out."
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EPALMError(f"{out} cannot be made ({error.strerror or error}).") from error
    own = out / f"part-{share.rank:04d}.jsonl"
    return Results(own, settings, [part for part in parts(out) if part != own])


def parts(folder: Path) -> list[Path]:
    """The files of results in a folder, in the order of their names."""
    return sorted(folder.glob("part-*.jsonl"))


def run_merge(args: argparse.Namespace) -> int:
    """One file out of all parts: the best row of every file, in the order of the names."""
    found = parts(args.folder)
    if not found:
        raise EPALMError(
            f"{args.folder} has no results: it is not a folder that several processes wrote with --out."
        )
    rows: dict[tuple, dict[str, Any]] = {}
    for part in found:
        own: dict[tuple, dict[str, Any]] = {}
        for row in rows_of(part):
            own[_key(row)] = row  # the last row of a part counts
        for key, row in own.items():
            if key not in rows or is_better(row, rows[key]):
                rows[key] = row
    write_json_lines(args.out, [rows[key] for key in sorted(rows)])
    failed = sum("error" in row for row in rows.values())
    say(f"Wrote {args.out}: {len(rows)} rows of {len(found)} parts, {failed} of them errors.")
    return OK


def _key(row: dict[str, Any]) -> tuple:
    settings = sorted((name, str(value)) for name, value in row.items() if name not in ABOUT_A_FILE)
    return os.path.normpath(row["file"]), tuple(settings)
