"""A study: variants of a training with several seeds each, as a table and a figure.

    python -m train study train/studies/design-choices.yaml

Every run is one `python -m train fit` and one `python -m train evaluate`; its log.txt has both commands and
their output. A run's folder is named after its settings: finished runs are not repeated, stopped ones
continue, and rows may be renamed.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from threading import Lock
from typing import Any, TextIO

from tqdm import tqdm

from epalm.config import from_dict
from epalm.errors import EPALMError
from epalm.files import read_json_lines, write_atomic
from train.reports import figures
from train.reports.readme import write_between
from train.settings import Settings, load_settings, read_yaml

FIGURES = Path(__file__).parents[2] / "assets" / "studies"  # figures for READMEs


@dataclass(frozen=True)
class Group:
    """Rows that share their base settings and metric."""

    name: str
    base: str  # path of the base settings
    rows: dict[str, tuple[str, ...]]  # row name -> changed settings, as in `--set a.b=value`


@dataclass(frozen=True)
class Study:
    """The trainings to compare."""

    title: str
    out: str
    seeds: tuple[int, ...]
    groups: tuple[Group, ...]
    curve: bool = False  # draw each group as a line over `limit`, the fraction of the data


@dataclass(frozen=True)
class Run:
    """One training of a study: a row with a seed."""

    group: str
    row: str
    seed: int
    base: Path
    changes: tuple[str, ...]
    settings: Settings

    @property
    def out(self) -> Path:
        return Path(self.settings.out)


@dataclass(frozen=True)
class Result:
    """A run's first metric on the test split, with the right media and blind."""

    metric: str
    value: float
    blind: float
    trained: int  # parameters
    steps: int


def load_study(path: Path) -> Study:
    """Read a study's YAML file.

    Raises:
        EPALMError: the file is missing or not YAML, keys are wrong, or there are no seeds or rows.
    """
    study = from_dict(Study, read_yaml(path), str(path))
    if not study.seeds or not study.groups or not all(group.rows for group in study.groups):
        raise EPALMError(f"{path} needs at least one seed, one group, and one row in every group.")
    return study


def runs_of(study: Study) -> list[Run]:
    """All runs, seed by seed, so that an interrupted study has results for every row.

    Raises:
        EPALMError: a row's settings are invalid or have no test split.
    """
    runs = []
    for seed in study.seeds:
        for group in study.groups:
            for row, changes in group.rows.items():
                changes = (*changes, f"optim.seed={seed}")
                base = Path(group.base)
                settings = load_settings(base, changes)
                if settings.data.test is None:
                    raise EPALMError(f"{base} has no test split to compare on: set data.test.")
                plain = dataclasses.replace(settings, out="")
                digest = hashlib.sha256(repr(plain).encode()).hexdigest()[:8]
                out = Path(study.out) / f"{base.stem}-{seed}-{digest}"
                runs.append(
                    Run(group.name, row, seed, base, (*changes, f"out={out}"),
                        dataclasses.replace(settings, out=str(out)))
                )  # fmt: skip
    return runs


# ---------------------------------------------------------------- running


def run_all(runs: Sequence[Run], jobs: int) -> None:
    """Run everything that has no result yet, `jobs` at a time, each with its share of the CPU's threads.

    Raises:
        EPALMError: a run failed. The others are stopped and continue in the next call.
    """
    left = [run for run in {run.out: run for run in runs}.values() if read_result(run) is None]
    processes = Processes(max(1, (os.cpu_count() or 1) // jobs))
    with ThreadPoolExecutor(jobs) as pool, terminated_as_interrupted():
        waiting = [pool.submit(perform, run, processes) for run in left]
        try:
            with tqdm(total=len(left), unit="run", dynamic_ncols=True) as bar:
                for future in as_completed(waiting):
                    future.result()
                    bar.update()
        except BaseException:
            for future in waiting:
                future.cancel()
            processes.stop()
            raise


def perform(run: Run, processes: Processes) -> None:
    """Train and evaluate one run."""
    changes = [part for change in run.changes for part in ("--set", change)]
    last = ["--model", str(run.out / "last")]  # not best/: all runs get the same budget
    run.out.mkdir(parents=True, exist_ok=True)
    log = run.out / "log.txt"
    for words in (
        ["fit", str(run.base), *changes, "--resume"],
        ["evaluate", str(run.base), *changes, *last, "--blind", "--no-java"],
    ):
        with log.open("a", encoding="utf-8") as file:
            file.write(f"$ python -m train {shlex.join(words)}\n")
            file.flush()
            code = processes.run([sys.executable, "-m", "train", *words], file)
        if code:
            said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1]
            raise EPALMError(f"The run in {run.out} failed ({said}); see its log.txt.")


class Processes:
    """Starts processes from several threads; `stop` ends the running ones and prevents new ones."""

    def __init__(self, threads: int) -> None:
        self.environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        self.running: set[subprocess.Popen[bytes]] = set()
        self.stopped = False
        self.lock = Lock()

    def run(self, command: list[str], log: TextIO) -> int:
        """Run a command; returns its exit code."""
        with self.lock:
            if self.stopped:
                return 1
            process = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.environment,
                start_new_session=True,  # Ctrl-C reaches only the study, which stops its runs
            )
            self.running.add(process)
        code = process.wait()
        with self.lock:
            self.running.discard(process)
        return code

    def stop(self) -> None:
        with self.lock:
            self.stopped = True
            for process in self.running:
                process.terminate()


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM ends the study like Ctrl-C: the runs save before they end."""

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def read_result(run: Run) -> Result | None:
    """The result of a run, or None if it has not finished."""
    try:
        scores = json.loads((run.out / "metrics-test.json").read_text())
        cost = json.loads((run.out / "cost.json").read_text())
    except FileNotFoundError:
        return None
    if scores["blind"] is None:  # evaluated by hand without --blind
        return None
    metric = scores.get("metric") or next(iter(scores["metrics"]))
    log = read_json_lines(run.out / "log.jsonl")
    return Result(
        metric,
        scores["metrics"][metric],
        scores["blind"][metric],
        cost["trained_parameters"],
        log[-1]["step"],
    )


# ---------------------------------------------------------------- the table


Table = dict[str, dict[str, list[Result]]]  # results by group and row


def gather(study: Study, runs: Sequence[Run]) -> Table:
    """The results so far, in the study's order."""
    found: Table = {group.name: {row: [] for row in group.rows} for group in study.groups}
    for run in runs:
        if (result := read_result(run)) is not None:
            found[run.group][run.row].append(result)
    return found


def markdown(table: Table) -> list[str]:
    """A line per row: mean and standard deviation over the seeds, each seed's value, and the blind result."""
    lines = []
    for group, rows in table.items():
        lines += [
            f"| {group} | {metric_of(rows)} × 100 | each seed | blind | trained | steps |",
            "|---|---|---|---|---|---|",
        ]
        for row, results in rows.items():
            if not results:
                lines.append(f"| {row} | not run | | | | |")
                continue
            values = [100 * result.value for result in results]
            spread = f" ± {stdev(values):.1f}" if len(values) > 1 else ""
            each = ", ".join(f"{value:.1f}" for value in values)
            blind = mean(100 * result.blind for result in results)
            lines.append(
                f"| {row} | {mean(values):.1f}{spread} | {each} | {blind:.1f} | "
                f"{results[0].trained / 1e6:.2f} M | {results[0].steps} |"
            )
        lines.append("")
    return lines


def metric_of(rows: dict[str, list[Result]]) -> str:
    """The metric of a group."""
    return next((result.metric for results in rows.values() for result in results), "metric")


def figure(study: Study, table: Table, path: Path) -> None:
    """Draw the results: lines over the fraction of the data, or dots for each row of the table."""
    metric = " / ".join(dict.fromkeys(f"{metric_of(rows)} × 100" for rows in table.values()))
    if study.curve:
        fractions = {run.row: run.settings.limit for run in runs_of(study)}
        draw, inches = figures.curves(study.title, metric, fractions, values(table)), (5.2, 3.6)
    else:
        draw = figures.dots(study.title, metric, values(table))
        inches = (6.4, 0.9 + 0.19 * sum(1 + len(rows) for rows in table.values()))
    figures.chart(draw, path, inches)


def values(table: Table) -> dict[str, dict[str, list[float]]]:
    """Each seed's first metric × 100."""
    return {
        group: {row: [100 * result.value for result in results] for row, results in rows.items()}
        for group, rows in table.items()
    }


# ---------------------------------------------------------------- the command


def run_study(arguments: argparse.Namespace) -> None:
    """Run what is missing, then write table.md, figure.png and, with --readme, the README's section."""
    if arguments.jobs < 1:
        raise EPALMError(f"--jobs must be at least 1, but it is {arguments.jobs}.")
    study = load_study(arguments.study)
    runs = runs_of(study)
    if not arguments.no_run:
        run_all(runs, arguments.jobs)
    table = gather(study, runs)
    lines = markdown(table)
    out = Path(study.out)
    write_atomic(out / "table.md", [line + "\n" for line in lines])
    figure(study, table, out / "figure.png")
    print("\n".join(lines))
    print(f"Table and figure are in {out}.", file=sys.stderr)
    if arguments.readme is not None:
        name = arguments.study.stem
        picture = FIGURES / f"{name}.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(out / "figure.png", picture)
        link = os.path.relpath(picture, arguments.readme.resolve().parent)
        write_between(arguments.readme, f"study {name}", [f"![{study.title}]({link})", "", *lines])
