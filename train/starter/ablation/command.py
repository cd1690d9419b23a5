"""python -m train ablation: small trainings of the starter's image adapters that differ in one thing each."""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
from pathlib import Path
from statistics import mean, stdev

import torch

from epalm.errors import EPALMError
from epalm.files import write_atomic
from train.frozen import lm_config, load_frozen_lm
from train.machine import pack_where_there_is_room
from train.reports import figures
from train.reports.readme import write_between
from train.reports.study import FIGURES
from train.starter.ablation.plan import Ablation, Rows, Run, load_ablation
from train.starter.ablation.trial import RESULT, Frozen, perform, settings_of
from train.starter.pictures.batches import StarterData

SHOWN = {
    "caption": ("name", "name or kind", "CIDEr", "blind CIDEr"),
    "qa": ("accuracy", "accuracy at the median", "AUC"),
}
DRAWN = {"caption": "name or kind", "qa": "AUC"}  # in the figure

Table = dict[str, dict[str, list[dict[str, float]]]]  # results by group and row


def load_frozen(ablation: Ablation) -> Frozen:
    """The language model, and the features of the work folder.

    Raises:
        EPALMError: there are none.
    """
    work = Path(ablation.work)
    if not (work / "features.safetensors").exists():
        raise EPALMError(
            f"There are no features in {work}: make them with `python -m train starter --data-only --data "
            f"DIR --work {work}`."
        )
    data = StarterData(work)
    first = ablation.runs()[0]
    settings = settings_of(first.trial, 1, first.seed, first.out)
    sizes = lm_config(settings)
    lm, tokenizer = load_frozen_lm(settings, sizes, "cpu")
    pack_where_there_is_room(lm.base)  # before the start is computed, not only when training begins
    held_out = [photo for photo in data.photos if photo.row["split"] == "test"]
    scenes = [photo for photo in held_out if photo.row["kind"] == "scene"]
    things = [photo for photo in held_out if photo.row["kind"] == "class"]
    some_scenes, some_things = (
        random.Random(0).sample(photos, min(most, len(photos)))
        for photos, most in ((scenes, ablation.scenes), (things, ablation.things))
    )
    return Frozen(data, lm, tokenizer, sizes, some_scenes, some_things)


def gather(ablation: Ablation, runs: list[Run]) -> Table:
    """What there is so far, in the ablation's order."""
    found: Table = {group.name: {row: [] for row in group.rows} for group in ablation.groups}
    for run in runs:
        if (run.out / RESULT).exists():
            found[run.group][run.row].append(json.loads((run.out / RESULT).read_text()))
    return found


def markdown(ablation: Ablation, table: Table) -> list[str]:
    """A line per row: mean and standard deviation over the seeds, × 100."""
    lines = []
    for group in ablation.groups:
        keys = keys_of(group)
        lines += [f"| {group.name} | {' | '.join(keys)} | seeds |", "|---|" + "---|" * (len(keys) + 1)]
        for row, results in table[group.name].items():
            cells = [spread([100 * result[key] for result in results if key in result]) for key in keys]
            lines.append(f"| {row} | {' | '.join(cells)} | {len(results)} |")
        lines.append("")
    return lines


def keys_of(group: Rows) -> tuple[str, ...]:
    return SHOWN[group.trial["task"]]


def spread(values: list[float]) -> str:
    if not values:
        return "not run"
    return f"{mean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")


def draw(ablation: Ablation, table: Table, path: Path) -> None:
    """A row of dots per row of the table."""
    tasks = dict.fromkeys(group.trial["task"] for group in ablation.groups)
    values = {
        group.name: {
            row: [100 * result[DRAWN[group.trial["task"]]] for result in results]
            for row, results in table[group.name].items()
        }
        for group in ablation.groups
    }
    metric = " / ".join(f"{DRAWN[task]} × 100" for task in tasks)
    inches = (6.4, 0.9 + 0.19 * sum(1 + len(rows) for rows in values.values()))
    figures.chart(figures.dots(ablation.title, metric, values), path, inches)


def run_ablation(arguments: argparse.Namespace) -> int:
    """Run what is missing, then write table.md, figure.png and, if wanted, a page's part."""
    ablation = load_ablation(arguments.ablation)
    runs = ablation.runs()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    out = Path(ablation.out)
    out.mkdir(parents=True, exist_ok=True)
    left = [run for run in runs if not (run.out / RESULT).exists()]
    if left and not arguments.no_run:
        frozen = load_frozen(ablation)
        for number, run in enumerate(left, 1):
            print(f"{number} of {len(left)}: {run.group}: {run.row}, seed {run.seed}", file=sys.stderr)
            if not perform(run, frozen):
                return 130
    table = gather(ablation, runs)
    lines = markdown(ablation, table)
    write_atomic(out / "table.md", [line + "\n" for line in lines])
    draw(ablation, table, out / "figure.png")
    print("\n".join(lines))
    if arguments.readme is not None:
        name = arguments.ablation.stem
        FIGURES.mkdir(parents=True, exist_ok=True)
        shutil.copy(out / "figure.png", FIGURES / f"{name}.png")
        link = Path("../..") / "assets" / "studies" / f"{name}.png"
        write_between(arguments.readme, f"ablation {name}", [f"![{ablation.title}]({link})", "", *lines])
    return 0
