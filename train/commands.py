"""The commands of `python -m train`: for each, a function that adds its parser and one that runs it.

Modules are imported when a command runs, so that --help does not wait for PyTorch.
"""

from __future__ import annotations

import argparse
import os
import textwrap
from pathlib import Path
from typing import Any

from train.data.benchmarks import DATASETS, OWN, Dataset, find_dataset

DESCRIPTION = """\
Find a benchmark's annotation files by their official names in any folder under --source, or the table of your
own data; open every file they list once; then write OUT/SPLIT.jsonl for each split and OUT/report.json. Items
whose file is missing or damaged are left out and counted. Run the command again to continue a stopped run.
The original implementation's preprocessed JSON lists work as well as the official files."""
OWN_DATA = """\
own_{image,video,audio}_{caption,qa}: own data
  A CSV, TSV or JSON file in DIR with a column of file names (file, image, …), and a column of captions or
  two with questions and answers (caption; question, answer). A tenth of the files each goes to val and test,
  and no file is in two splits. A column split, or three tables named train, val and test, set the splits
  instead."""


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Add all commands to the parser of `python -m train`."""
    commands = parser.add_subparsers(dest="command", required=True)
    for add in (
        add_prepare,
        add_features,
        add_fit,
        add_evaluate,
        add_report,
        add_study,
        add_ablation,
        add_starter,
        add_starter_report,
    ):
        add(commands)


def add_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", type=Path, metavar="CONFIG", help="settings of the training, a YAML file")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a setting: optim.lr=1e-4, data.cache=null, out=runs/second (may be given several times)",
    )


def add_against(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--against", type=Path, metavar="DIR", help="also compare, item by item, with another run's folder"
    )


def add_showing(parser: argparse.ArgumentParser) -> None:
    """Arguments of the commands that compare runs in a table and a figure."""
    parser.add_argument("--no-run", action="store_true", help="only show finished runs")
    parser.add_argument(
        "--readme", type=Path, metavar="FILE", help="also put table and figure into this file"
    )


def add_prepare(commands: Any) -> None:
    parser = commands.add_parser(
        "prepare",
        help="official files of a benchmark, or your own data -> manifests",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=wrapped(DESCRIPTION, indent=""),
        epilog="\n\n".join((*map(described, DATASETS.values()), OWN_DATA)),
    )
    parser.add_argument(
        "dataset", choices=[*DATASETS, *OWN], metavar="DATASET", help=", ".join((*DATASETS, *OWN))
    )
    parser.add_argument(
        "--source", type=Path, required=True, metavar="DIR", help="folder with the annotations and media"
    )
    parser.add_argument(
        "--media",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="another folder with media; may be given several times",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write (default: data/DATASET)")
    parser.add_argument(
        "--no-check", action="store_true", help="only check that media exist, do not open them"
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=os.cpu_count() or 1,
        metavar="N",
        help="processes that open media (default: %(default)s)",
    )
    parser.set_defaults(run=prepare)


def described(dataset: Dataset) -> str:
    """A benchmark's paragraph in the help."""
    splits = (f"    {name}.jsonl: {text}" for name, text in dataset.splits.items())
    layout = (f"    DIR/{path}" for path in dataset.layout)
    return "\n".join((f"{dataset.name}: {dataset.title}", wrapped(dataset.download), *layout, *splits))


def wrapped(text: str, indent: str = "  ") -> str:
    return textwrap.fill(
        text,
        96,
        initial_indent=indent,
        subsequent_indent=indent,
        break_on_hyphens=False,
        break_long_words=False,
    )


def add_features(commands: Any) -> None:
    parser = commands.add_parser(
        "features",
        help="encode a data set's media once, so that training needs no encoder",
        description="Encode the media of CONFIG's manifests with its frozen encoder into its cache folder, "
        "so that `fit` trains without opening a picture, video or sound. Each file is encoded once, "
        "however many questions there are about it, and once more for every augmented draw that CONFIG "
        "trains on.",
        epilog="Run it again to continue a stopped run; the result is the same as without the stop. Moved "
        "or copied media keep their features, edited ones get new ones. Damaged features are found by "
        "their checksums and made again. Features are float32: six layers of a ViT-B take 18 KB per view, "
        "2.3 GB for COCO's 123,287 pictures. On several GPUs: accelerate launch -m train features CONFIG.",
    )
    add_settings(parser)
    parser.add_argument("--batch", type=int, default=32, metavar="N", help="media per batch (%(default)s)")
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda, mps (the best there is)")
    parser.set_defaults(run=features)


def add_fit(commands: Any) -> None:
    parser = commands.add_parser(
        "fit",
        help="train an adapter on a benchmark",
        description="Train an adapter with the settings of CONFIG. The run folder (`out` in CONFIG) gets "
        "log.jsonl, checkpoint.pt, cost.json and the adapters last/ and best/ (by the first metric on the "
        "validation split); `python -m train report` turns it into a page.",
        epilog="Ctrl-C and SIGTERM finish the current step, save, and say how to continue. After kill -9 "
        "or a power cut, --resume continues from the last checkpoint and takes the same steps. Several "
        "GPUs: accelerate launch -m train fit CONFIG.",
    )
    add_settings(parser)
    parser.add_argument("--resume", action="store_true", help="continue the training in the run folder")
    parser.add_argument("--limit", type=float, metavar="F", help="train on a fixed fraction of the items")
    parser.set_defaults(run=fit)


def add_evaluate(commands: Any) -> None:
    parser = commands.add_parser(
        "evaluate",
        help="evaluate an adapter on a benchmark's split",
        description="Predict every item of a split and compute the benchmark's metrics with 95 %% intervals "
        "(bootstrap over the items). Writes predictions-SPLIT.jsonl and metrics-SPLIT.json into the run "
        "folder (with the manifest's name added if it is not the training's), and prints a table next to the "
        "paper's numbers.",
        epilog="Predictions are saved as they are made: run the command again to continue a stopped run.",
    )
    add_settings(parser)
    parser.add_argument("--model", type=Path, metavar="DIR", help="adapter folder (best/ of the run folder)")
    parser.add_argument("--split", choices=("train", "val", "test"), default="test", help="%(default)s")
    parser.add_argument(
        "--blind", action="store_true", help="also evaluate with another item's media, i.e. guessing"
    )
    parser.add_argument("--text-only", action="store_true", help="also evaluate without any media")
    add_against(parser)
    parser.add_argument(
        "--submission", action="store_true", help="also write the file for the benchmark's evaluation server"
    )
    parser.add_argument("--no-java", action="store_true", help="leave out METEOR and SPICE, which start Java")
    parser.add_argument("--batch", type=int, metavar="N", help="items per batch (evaluation.batch)")
    parser.set_defaults(run=evaluate)


def add_study(commands: Any) -> None:
    parser = commands.add_parser(
        "study",
        help="compare variants of a training over several seeds",
        description="Train and evaluate every row of STUDY with every seed, and write table.md and "
        "figure.png into its folder. Each run's log.txt has its commands and their output.",
        epilog="Finished runs are not repeated and stopped ones continue, so the same command resumes a "
        "study. If the settings have a cache, encode their media first with `python -m train features`.",
    )
    parser.add_argument("study", type=Path, metavar="STUDY", help="the trainings to compare, a YAML file")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at a time (%(default)s)")
    add_showing(parser)
    parser.set_defaults(run=study)


def add_ablation(commands: Any) -> None:
    """Register `ablation` among the subparsers of `python -m train`."""
    parser = commands.add_parser(
        "ablation",
        help="compare small trainings of the starter's image adapters",
        description="Train and measure every row of ABLATION with every seed, on the features of the "
        "starter's work folder, and write table.md and figure.png into its folder.",
        epilog="Runs that are finished are not repeated, and a stopped one goes on, so the same command "
        "continues an ablation. The features come from `python -m train starter --data-only --data DIR`.",
    )
    parser.add_argument("ablation", type=Path, metavar="ABLATION", help="what to compare, a YAML file")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 = all")
    add_showing(parser)
    parser.set_defaults(run=ablation)


def add_report(commands: Any) -> None:
    parser = commands.add_parser(
        "report",
        help="one HTML page about a run: curves, results, samples, failures, cost",
        description="Write RUN_DIR/report.html, a page that needs no network: loss and learning-rate "
        "curves, metrics per epoch and on the evaluated splits with 95 %% intervals, the best, worst and "
        "random predictions with their media, failures, cost and settings. The curves are also written as "
        "PNG files. Works while a training runs: the page says what is still missing.",
    )
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="folder that fit or evaluate wrote")
    parser.add_argument(
        "--media",
        type=Path,
        default=Path(),
        metavar="DIR",
        help="base folder for relative media paths (default: the current one)",
    )
    add_against(parser)
    parser.set_defaults(run=report)


def add_starter(commands: Any) -> None:
    parser = commands.add_parser(
        "starter",
        help="rebuild assets/starter from pictures and sounds that Debian packages ship",
        description="Collect labelled pictures and sounds from Debian packages, make clips of them, encode "
        "all, train the starter's six adapters, and measure them on what was held out and on real files. "
        "Every stage is kept in the work folder, so a second call goes on where the first one stopped.",
    )
    parser.add_argument("--work", type=Path, default=Path("runs/starter"), help="folder for everything made")
    parser.add_argument("--out", type=Path, help="write the adapters here instead of assets/starter")
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="folder with the public sets flickr8k, photos800, daquar, esc10, urbansound8k and instruments; "
        "what is missing is left out",
    )
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 = all")
    parser.add_argument(
        "--data-only", action="store_true", help="stop before the training: media, features, manifests"
    )
    for name, what in (("media", "the media"), ("steps", "the trainings' steps")):
        parser.add_argument(
            f"--{name}-share",
            type=float,
            default=1.0,
            metavar="F",
            help=f"use this part of {what}, to try the factory out (%(default)s)",
        )
    parser.set_defaults(run=starter)


def add_starter_report(commands: Any) -> None:
    """Register `starter-report` among the subparsers of `python -m train`."""
    parser = commands.add_parser(
        "starter-report",
        help="measure a folder of starter adapters on public media that they never saw",
        description="Describe and answer questions about held-out photos, rooms, recordings and clips, "
        "beside another file's features, the encoder's own head or a probe, and the nearest training item; "
        "write the tables into the folder's README.md. Features are kept in the work folder for the next "
        "report.",
    )
    parser.add_argument(
        "folder", type=Path, nargs="?", metavar="FOLDER", help="of the adapters (assets/starter)"
    )
    parser.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="folder with the public sets; see `starter`"
    )
    parser.add_argument("--work", type=Path, default=Path("runs/starter"), help="folder for features")
    parser.add_argument("--readme", type=Path, metavar="FILE", help="write the tables here instead")
    parser.add_argument(
        "--layers",
        type=Path,
        metavar="PAGE",
        help="measure which of the LM's layers read what is seen, and nothing else, and write it into PAGE",
    )
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 = all")
    parser.set_defaults(run=starter_report)


# ---------------------------------------------------------------- what they run


def prepare(arguments: argparse.Namespace) -> None:
    from train.data.prepare import prepare, summary

    dataset = find_dataset(arguments.dataset)
    out = arguments.out or Path("data") / dataset.name
    check, workers = not arguments.no_check, arguments.workers
    print(summary(dataset, prepare(dataset, arguments.source, out, arguments.media, check, workers), out))


def features(arguments: argparse.Namespace) -> None:
    from train.features.command import features_of

    features_of(arguments)


def fit(arguments: argparse.Namespace) -> int:
    from train.training import run_fit

    return run_fit(arguments)


def evaluate(arguments: argparse.Namespace) -> None:
    from train.evaluate import run_evaluate

    run_evaluate(arguments)


def report(arguments: argparse.Namespace) -> None:
    from train.reports.page import write_report

    print(write_report(arguments.run_dir, arguments.media, arguments.against))


def study(arguments: argparse.Namespace) -> None:
    from train.reports.study import run_study

    run_study(arguments)


def ablation(arguments: argparse.Namespace) -> int:
    from train.starter.ablation.command import run_ablation

    return run_ablation(arguments)


def starter(arguments: argparse.Namespace) -> int:
    from train.starter.build import build
    from train.starter.scale import Scale

    scale = Scale(arguments.media_share, arguments.steps_share)
    return build(arguments.work, arguments.out, arguments.threads, arguments.data_only, arguments.data, scale)


def starter_report(arguments: argparse.Namespace) -> None:
    from train.starter.report.command import run_starter_report

    run_starter_report(arguments)
