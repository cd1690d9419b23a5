"""The commands `fit`, `evaluate`, `report` and `study`: their arguments. Other modules do the work."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

SETTING = "change a setting: optim.lr=1e-4, data.cache=null, out=runs/second (may be given several times)"


def add_fit(commands: Any) -> None:
    """Register `fit` among the subparsers of `python -m train`."""
    parser = commands.add_parser(
        "fit",
        help="train an adapter on a benchmark",
        description="Train an adapter with the settings of CONFIG. The run folder (`out` in CONFIG) gets "
        "log.jsonl, checkpoint.pt, the adapters last/ and best/ (by the validation split's first metric) and "
        "cost.json; `python -m train report` makes a page of it.",
        epilog="Ctrl-C and SIGTERM end the step, save and say how to go on. After a kill -9 or a power cut, "
        "--resume goes on at the last checkpoint and takes the same steps. Several GPUs: accelerate launch "
        "-m train fit CONFIG.",
    )
    parser.add_argument("config", type=Path, metavar="CONFIG", help="settings of the training, a YAML file")
    parser.add_argument("--resume", action="store_true", help="go on with the training in the run folder")
    parser.add_argument(
        "--limit", type=float, metavar="F", help="train on this fraction of the items, always the same ones"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=SETTING)
    parser.set_defaults(run=fit)


def add_evaluate(commands: Any) -> None:
    """Register `evaluate` among the subparsers of `python -m train`."""
    parser = commands.add_parser(
        "evaluate",
        help="measure an adapter on a benchmark's split",
        description="Predict every item of a split and compute the benchmark's metrics, with 95 %% intervals "
        "(bootstrap over the items). Writes predictions-SPLIT.jsonl and metrics-SPLIT.json into the run "
        "folder, names them after the manifest if it is another one than the training's, and prints a table "
        "beside the paper's numbers.",
        epilog="Predictions are kept as they come: a stopped run goes on where it was.",
    )
    parser.add_argument("config", type=Path, metavar="CONFIG", help="settings of the training, a YAML file")
    parser.add_argument("--model", type=Path, metavar="DIR", help="adapter folder (best/ of the run folder)")
    parser.add_argument("--split", choices=("train", "val", "test"), default="test", help="%(default)s")
    parser.add_argument("--blind", action="store_true", help="also with another item's media: guessing")
    parser.add_argument("--text-only", action="store_true", help="also without any media")
    parser.add_argument(
        "--against", type=Path, metavar="DIR", help="also compare, item by item, with another run's folder"
    )
    parser.add_argument(
        "--submission", action="store_true", help="also write the file that the benchmark's server takes"
    )
    parser.add_argument("--no-java", action="store_true", help="leave out METEOR and SPICE, which start Java")
    parser.add_argument("--batch", type=int, metavar="N", help="items per batch (evaluation.batch)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=SETTING)
    parser.set_defaults(run=evaluate)


def add_study(commands: Any) -> None:
    """Register `study` among the subparsers of `python -m train`."""
    parser = commands.add_parser(
        "study",
        help="compare trainings that differ in some settings, several seeds each",
        description="Train and evaluate every row of STUDY with every seed, and write table.md and "
        "figure.png into its folder. Each run's log.txt has its commands and what they printed.",
        epilog="Runs that are finished are not repeated, and a stopped one goes on, so the same command "
        "continues a study. Its trainings' media must have been encoded with `python -m train features`, if "
        "their settings name a cache.",
    )
    parser.add_argument("study", type=Path, metavar="STUDY", help="what to compare, a YAML file")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at a time (%(default)s)")
    parser.add_argument("--no-run", action="store_true", help="only show the runs that are finished")
    parser.add_argument(
        "--readme", type=Path, metavar="FILE", help="put table and figure into this file, too"
    )
    parser.set_defaults(run=study)


def add_report(commands: Any) -> None:
    """Register `report` among the subparsers of `python -m train`."""
    parser = commands.add_parser(
        "report",
        help="one HTML page about a run: curves, results, samples, failures, cost",
        description="Write RUN_DIR/report.html, one page that needs no network: loss and learning-rate "
        "curves, metrics per epoch and on the evaluated splits with their 95 %% intervals, the best, the "
        "worst and random predictions with their media, failures, cost and settings; and the curves as PNG "
        "files beside it. Works while a training runs: the page says what is not there yet.",
    )
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="folder that fit or evaluate wrote")
    parser.add_argument(
        "--media",
        type=Path,
        default=Path(),
        metavar="DIR",
        help="folder that relative media paths start from (default: the current one)",
    )
    parser.add_argument(
        "--against", type=Path, metavar="DIR", help="also compare, item by item, with another run's folder"
    )
    parser.set_defaults(run=report)


def study(arguments: argparse.Namespace) -> None:
    from train.reports.study import run_study

    run_study(arguments)


def report(arguments: argparse.Namespace) -> None:
    from train.reports.page import write_report

    print(write_report(arguments.run_dir, arguments.media, arguments.against))


def fit(arguments: argparse.Namespace) -> int:
    from train.training import run_fit

    return run_fit(arguments)


def evaluate(arguments: argparse.Namespace) -> None:
    from train.evaluate import run_evaluate

    run_evaluate(arguments)
