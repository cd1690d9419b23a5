"""What the benchmarks share: paired timing, median and spread, the machine, and the files of results."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from epalm.startup import WAITING

RESULTS = Path(__file__).parent / "results"


@dataclass
class Row:
    """One line of a table: what was measured, and all its samples."""

    case: str  # what was done: "opt-125m, batch 1, 3 beams"
    variant: str  # by whom: "plain loop", "float32"
    samples: list[float]
    unit: str = "s"
    note: str = ""
    baseline: str = ""  # the variant that this one is compared with
    ratio: float | None = None  # median over the rounds of baseline / this one: above 1 is faster

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    @property
    def spread(self) -> tuple[float, float]:
        """The fastest and the slowest sample."""
        return min(self.samples), max(self.samples)


@dataclass
class Table:
    """The results of one topic."""

    topic: str
    title: str
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._before = others_seconds(), time.monotonic()

    def add(self, row: Row) -> Row:
        """Append a row and print it."""
        self.rows.append(row)
        low, high = row.spread
        ratio = "" if row.ratio is None else f"  {row.ratio:.2f} x {row.baseline}"
        print(
            f"{row.case:<44} {row.variant:<26} {row.median:9.4g} {row.unit:<10} "
            f"({low:.3g} to {high:.3g}, n = {len(row.samples)}){ratio}  {row.note}",
            flush=True,
        )
        return row

    def save(self, folder: Path = RESULTS) -> Path:
        """Write the topic's JSON, with date, commit and machine."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.topic}.json"
        before, begun = self._before
        busy = (others_seconds() - before) / (time.monotonic() - begun)
        if busy > 0.1:
            self.notes.append(f"The machine was not idle: other programs used {busy:.1f} of its CPUs.")
        data = {
            "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            "commit": commit(),
            "machine": machine(),
        }
        path.write_text(json.dumps(data | asdict(self), indent=1) + "\n", encoding="utf-8")
        return path


def paired(
    variants: Mapping[str, Callable[[], Any]], rounds: int, seconds: float = 60.0, warm: int = 1
) -> dict[str, list[float]]:
    """Seconds of each variant, all of them once per round, in turns of changing order.

    What the machine does besides then slows all of them alike. Stops after `rounds`, or after `seconds` once
    there is one round.

    Args:
        warm: calls of each before anything is timed.
    """
    for run in variants.values():
        for _ in range(warm):
            run()
    samples: dict[str, list[float]] = {name: [] for name in variants}
    started = time.perf_counter()
    for i in range(rounds):
        for name in list(variants)[:: 1 if i % 2 == 0 else -1]:
            samples[name].append(timed(variants[name]))
        if time.perf_counter() - started > seconds:
            break
    return samples


def timed(run: Callable[[], Any]) -> float:
    """Seconds of one call; waits for a GPU's work."""
    _synchronise()
    before = time.perf_counter()
    run()
    _synchronise()
    return time.perf_counter() - before


def compare(
    table: Table,
    case: str,
    samples: Mapping[str, list[float]],
    baseline: str,
    notes: Mapping[str, str] | None = None,
) -> None:
    """A row for each variant of one paired run; ratios are medians of the rounds' ratios."""
    base = samples[baseline]
    for name, values in samples.items():
        ratio = statistics.median(b / v for b, v in zip(base, values, strict=True))
        known = None if name == baseline else ratio
        table.add(Row(case, name, values, note=(notes or {}).get(name, ""), baseline=baseline, ratio=known))


def bandwidth(device: str = "cpu", megabytes: int = 512) -> float:
    """Bytes per second that can be read from memory: the best of several sums over a large array."""
    data = torch.ones(megabytes * 2**20 // 4, device=device)
    return data.numel() * 4 / min(timed(data.sum) for _ in range(8))


def matmul_rate(device: str = "cpu", dtype: torch.dtype = torch.float32, size: int = 1024) -> float:
    """Multiply-adds per second of the library's matrix product at its best size."""
    a, b = (torch.ones(size, size, device=device, dtype=dtype) for _ in range(2))
    return size**3 / min(timed(lambda: a @ b) for _ in range(10))


def others_seconds() -> float:
    """Seconds of CPU time that other programs have used so far; 0 where it is not known."""
    try:
        user, nice, system, _, _, *interrupts = map(
            int, Path("/proc/stat").read_text().split("\n")[0].split()[1:9]
        )
    except OSError:
        return 0.0
    own = os.times()
    used = (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK")
    return used - own.user - own.system - own.children_user - own.children_system


def commit() -> str:
    """The commit that is checked out, with a plus sign if files differ from it."""
    root = Path(__file__).parent.parent

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True)
        return done.stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except OSError:
        return ""


def machine() -> dict[str, Any]:
    """Processor, memory, threads and versions."""
    import transformers

    facts: dict[str, Any] = {
        "processor": _processor(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    } | {name: os.environ.get(name, "not set") for name in WAITING}
    if torch.cuda.is_available():
        facts["gpu"] = torch.cuda.get_device_name()
    return facts


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    facts = dict(line.split(":", 1) for line in lines if ":" in line)
    facts = {key.strip(): value.strip() for key, value in facts.items()}
    return ", ".join(f"{key} {facts.get(key, '?')}" for key in ("model name", "cpu family", "model"))


def _synchronise() -> None:
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
