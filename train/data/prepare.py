"""python -m train prepare DATASET --source DIR: official files of a benchmark -> one manifest per split.

OUT/train.jsonl, OUT/val.jsonl, …   the manifests, see train/data/manifest.py
OUT/report.json                     counts, and all files that are missing or damaged
OUT/checked.jsonl                   which files were opened, so that a rerun continues from there
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from epalm.errors import EPALMError
from epalm.files import write_json
from train.data.benchmarks import Dataset, Files
from train.data.check import CHECKS, check_files, check_image, check_media
from train.data.manifest import Item, save_manifest

__all__ = ["CHECKS", "check_files", "check_image", "prepare", "summary"]

NAMES = {"image": "picture", "video": "video", "audio": "sound"}
PLURAL = {"image": "pictures", "video": "videos", "audio": "sounds"}
NAMED = 3  # how many missing or damaged files the summary names


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
        source: folder with the annotation files; media are searched here and in the folders `media`.
        check: open every file once, in `workers` processes.

    Raises:
        EPALMError: annotation files or all of their media are missing, or an annotation file is damaged.
    """
    if workers < 1:
        raise EPALMError(f"--workers is {workers}, but it must be at least 1.")
    files = Files(source, dataset.modality, media)
    splits = dataset.read(files)
    if not splits:
        raise EPALMError(
            f"{source} has no annotation files of {dataset.title} in any folder; expected "
            f"{' or '.join(dataset.layout[:1])}. {dataset.download}"
        )
    if empty := [split for split, items in splits.items() if not items]:
        raise EPALMError(f"The files of the split {empty[0]} under {source} are empty; download them again.")
    paths = list(dict.fromkeys(item.media for items in splits.values() for item in items))
    there = [path for path in paths if path not in files.missing]
    if not there:
        where = ", ".join(map(str, (source, *media)))
        raise EPALMError(
            f"None of the {len(paths):,} {PLURAL[dataset.modality]} of {dataset.title} is under {where}. The "
            f"first is {paths[0]}, with any usual extension; the official layout is {dataset.layout[-1]}."
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
    """Write the manifests without items whose files are missing or damaged, and the report; returns it."""
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
    for split in {*dataset.splits, *splits}:  # left over from an earlier run with other files
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
    """A few sentences on what was written and what is missing."""
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
