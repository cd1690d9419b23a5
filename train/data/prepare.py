"""python -m train prepare DATASET --source DIR: official files of a benchmark -> one manifest per split.

OUT/train.jsonl, OUT/val.jsonl, …   the manifests, see train/data/manifest.py
OUT/report.json                     counts, and all media that are missing or damaged
OUT/checked.jsonl                   which media were opened, so that a rerun goes on from there
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import sys
import textwrap
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from epalm.cli.results import Results
from epalm.errors import EPALMError
from epalm.files import write_json
from train.data.benchmarks import DATASETS, OWN, Dataset, Files, find_dataset
from train.data.manifest import Item, save_manifest

NAMES = {"image": "picture", "video": "video", "audio": "sound"}
PLURAL = {"image": "pictures", "video": "videos", "audio": "sounds"}
NAMED = 3  # missing or damaged files that the summary names
DESCRIPTION = """\
Find a benchmark's annotation files under --source, by their official names in whatever folder, or the table
of own data; open every medium that they name once; and write OUT/SPLIT.jsonl for each split, and
OUT/report.json. Items whose medium is missing or damaged are left out and counted. A run that was stopped
goes on where it was when it is started again. The preprocessed JSON lists of the original implementation will
do as well as the official files."""
OWN_DATA = """\
own_{image,video,audio}_{caption,qa}: own data
  A CSV, TSV or JSON file in DIR: a column with the names of the files (file, image, …), and one with
  captions or two with questions and answers (caption; question, answer). A tenth of the media each goes to
  val and test, and no medium is in two splits. A column split, or three files called train, val and test,
  are followed instead."""

Check = Callable[[str], str | None]  # path -> None, or a sentence on what is wrong with the file


def add_prepare(commands: Any) -> None:
    """Register `prepare` among the subparsers of `python -m train`."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "prepare",
        help="official files of a benchmark -> manifests to train and evaluate with",
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
        help="a folder with media that are not under --source; may be given several times",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write (default: data/DATASET)")
    parser.add_argument(
        "--no-check", action="store_true", help="do not open the media, only see whether they are there"
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=os.cpu_count() or 1,
        metavar="N",
        help="processes that open media (default: %(default)s)",
    )
    parser.set_defaults(run=run)


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


def run(arguments: argparse.Namespace) -> None:
    if arguments.workers < 1:
        raise EPALMError(f"--workers is {arguments.workers}, but at least one process has to do the work.")
    dataset = find_dataset(arguments.dataset)
    out = arguments.out or Path("data") / dataset.name
    report = prepare(
        dataset, arguments.source, out, arguments.media, not arguments.no_check, arguments.workers
    )
    print(summary(dataset, report, out))


def prepare(
    dataset: Dataset,
    source: Path,
    out: Path,
    media: Sequence[Path] = (),
    check: bool = True,
    workers: int = 1,
) -> dict[str, Any]:
    """Write the manifests of a benchmark and OUT/report.json; returns the report.

    Args:
        source: folder with the annotation files; media are looked for here and in the folders `media`.
        check: open every medium once, in `workers` processes.

    Raises:
        EPALMError: no annotation files or none of their media are there, or an annotation file is damaged.
    """
    files = Files(source, dataset.modality, media)
    splits = dataset.read(files)
    if not splits:
        raise EPALMError(
            f"{source} has no annotation files of {dataset.title} in any folder: expected is "
            f"{' or '.join(dataset.layout[:1])}. {dataset.download}"
        )
    if empty := [split for split, items in splits.items() if not items]:
        raise EPALMError(
            f"The files of the split {empty[0]} under {source} have no entries; download them again."
        )
    paths = list(dict.fromkeys(item.media for items in splits.values() for item in items))
    there = [path for path in paths if path not in files.missing]
    if not there:
        where = ", ".join(map(str, (source, *media)))
        raise EPALMError(
            f"None of the {len(paths):,} {PLURAL[dataset.modality]} of {dataset.title} is under {where}: the "
            f"first is {paths[0]}, with any usual extension, and the official layout is {dataset.layout[-1]}."
        )
    damaged = check_media(there, dataset.modality, out, workers) if check else {}
    return write(dataset, splits, source, out, files, damaged)


def write(
    dataset: Dataset,
    splits: dict[str, list[Item]],
    source: Path,
    out: Path,
    files: Files,
    damaged: dict[str, str],
) -> dict[str, Any]:
    """Manifests without the items of missing and damaged media, and the report, which is also returned."""
    counts = {}
    missing = files.missing
    lost = {item.id for items in splits.values() for item in items if item.media in missing | damaged.keys()}
    for split, items in splits.items():
        kept = [item for item in items if item.media not in missing and item.media not in damaged]
        counts[split] = {
            "items": len(kept),
            "left_out": len(items) - len(kept),
            "media": len({item.media for item in kept}),
        }
        if kept:
            save_manifest(kept, out / f"{split}.jsonl")
    for split in {*dataset.splits, *splits}:  # of an earlier run, with other files
        if not counts.get(split, {}).get("items"):
            (out / f"{split}.jsonl").unlink(missing_ok=True)
    report = {
        "dataset": dataset.name,
        "source": str(source),
        "media": len({item.media for items in splits.values() for item in items}),
        "splits": counts,
        "left_out": len(lost),  # an item may be in several splits
        "not_made": {split: need for split, need in dataset.needs.items() if split not in splits},
        "notes": files.notes,
        "missing": sorted(missing),
        "damaged": dict(sorted(damaged.items())),
    }
    write_json(out / "report.json", report, indent=2)
    return report


def summary(dataset: Dataset, report: dict[str, Any], out: Path) -> str:
    """What was written and what is missing, in a few sentences."""
    kinds = PLURAL[dataset.modality]
    lines = [
        f"{out / split}.jsonl: {count['items']:,} item{'s' * (count['items'] != 1)}, "
        f"{counted(count['media'], dataset.modality)}"
        if count["items"]
        else f"{out / split}.jsonl is not written: none of its {count['left_out']:,} items can be used."
        for split, count in report["splits"].items()
    ]
    not_made: dict[str, list[str]] = {}
    for split, need in report["not_made"].items():
        not_made.setdefault(need, []).append(split)
    lines += [
        f"Not made: {', '.join(splits)}, because {report['source']} lacks {need}."
        for need, splits in not_made.items()
    ]
    lines += report["notes"]
    missing, damaged = report["missing"], report["damaged"]
    if not missing and not damaged:
        one = report["media"] == 1
        all_of_them = f"The {NAMES[dataset.modality]} is" if one else f"All {report['media']:,} {kinds} are"
        return "\n".join((*lines, f"{all_of_them} there."))
    lines.append(
        f"Of {counted(report['media'], dataset.modality)}, {len(missing):,} missing and {len(damaged):,} "
        f"damaged; {counted_items(report['left_out'])} left out. {out / 'report.json'} lists all:"
    )
    lines += [f"  {name} is missing." for name in missing[:NAMED]]
    lines += [f"  {sentence}" for sentence in list(damaged.values())[:NAMED]]
    return "\n".join(lines)


def counted(number: int, modality: str) -> str:
    """Such as "1 picture", "2 pictures"."""
    return f"{number:,} {NAMES[modality] if number == 1 else PLURAL[modality]}"


def counted_items(number: int) -> str:
    return "1 item is" if number == 1 else f"{number:,} items are"


# ---------------------------------------------------------------- opening media


def check_media(paths: Sequence[str], modality: str, out: Path, workers: int) -> dict[str, str]:
    """Open each medium that an earlier run has not found good; those that do not open, each with a sentence.

    Every outcome is at once in OUT/checked.jsonl. Files that changed since are opened again.
    """
    from epalm.cli.batch import Progress  # brings PyTorch

    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EPALMError(f"{out} cannot be made ({error.strerror}); give --out another folder.") from error
    damaged: dict[str, str] = {}
    with Results(out / "checked.jsonl", {"opened_as": modality}) as results:
        todo = [path for path in paths if not results.has(path)]
        if len(todo) < len(paths):
            print(f"{len(paths) - len(todo):,} files were opened before.", file=sys.stderr)
        with Progress(len(todo)) as progress:
            for path, problem in check_files(todo, CHECKS[modality], workers):
                if problem is None:
                    results.add(path, text="opens")
                else:
                    results.add(path, error=problem)
                    damaged[path] = problem
                progress.advance()
    return damaged


def check_files(paths: Sequence[str], check: Check, workers: int) -> Iterator[tuple[str, str | None]]:
    """Call `check`, a function at the top of a module, on each path in worker processes; in any order.

    A file on which a worker dies, as decoders do on some damage, is reported as damaged.
    """
    todo = deque(paths)
    while todo:
        running: dict[Future[str | None], str] = {}
        try:
            with pool(min(workers, len(todo))) as executor:
                while todo or running:
                    while todo and len(running) < 4 * workers:
                        future = executor.submit(check, todo[0])
                        running[future] = todo.popleft()
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        problem = future.result()
                        yield running.pop(future), problem
        except BrokenProcessPool:  # it does not say whose fault it was
            for path in running.values():
                yield path, check_alone(path, check)


def check_alone(path: str, check: Check) -> str | None:
    """`check` in a process of its own, whose death is the file's fault."""
    try:
        with pool(1) as executor:
            return executor.submit(check, path).result()
    except BrokenProcessPool:
        return (
            f"{path} makes the program that opens it crash: it is damaged, or does not fit into the memory."
        )


@contextmanager
def pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Worker processes; work that was not begun is dropped at the end."""
    # The libraries are imported once, by the process that workers are copies of, where there is such a way.
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    context.set_forkserver_preload(["epalm.media.image", "epalm.media.video", "epalm.media.audio"])
    executor = ProcessPoolExecutor(workers, context, initializer=begin_work)
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)


def begin_work() -> None:
    """In a worker: leave Ctrl-C to the parent, and end with it even if it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, daemon=True).start()


def end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def check_image(path: str) -> str | None:
    from epalm.media.image import open_image

    return problem_of(lambda: open_image(path))


def check_video(path: str) -> str | None:
    from epalm.media.video import open_video

    return problem_of(lambda: open_video(path, frames=1))


def check_audio(path: str) -> str | None:
    from epalm.media.audio import open_audio

    return problem_of(lambda: open_audio(path, seconds=0.5))


CHECKS: dict[str, Check] = {"image": check_image, "video": check_video, "audio": check_audio}


def problem_of(opening: Callable[[], object]) -> str | None:
    """The sentence with which a file is refused; None if it opens."""
    try:
        opening()
    except EPALMError as error:
        return str(error)
    return None
