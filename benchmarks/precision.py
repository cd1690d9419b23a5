"""What int8 and bfloat16 weights change: `python -m benchmarks.precision`, minutes, not in `make bench`.

The starter's captions of 500 pictures: crops and flips of the example pictures, or those of `--data DIR`. A
folder in Flickr8k's layout, `captions.txt` with lines of `image,caption` beside `images/`, also gives the
metrics in each precision.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch
from PIL import Image, ImageOps

from benchmarks.timing import Row, Table
from epalm import EPALM, Request
from train.metrics import score_captions

ROOT = Path(__file__).parent.parent
BATCH = 8
METRICS = ("CIDEr", "BLEU-4")


def pictures(folder: Path | None, count: int) -> Iterator[tuple[str, Image.Image]]:
    """Names and pictures: of a folder, or crops of the example pictures and of those that the example
    trains on."""
    if folder is not None:
        found = [path for path in sorted(folder.rglob("*")) if path.suffix in (".jpg", ".jpeg", ".png")]
        yield from ((path.name, Image.open(path).convert("RGB")) for path in found[-count:])
        return
    sources = [*(ROOT / "assets" / "examples").glob("*.jpg"), *(ROOT / "assets" / "example").rglob("*.jpg")]
    loaded = [Image.open(path).convert("RGB") for path in sorted(sources)]
    for i in range(count):
        picture = loaded[i % len(loaded)]
        turn = i // len(loaded)
        width, height = picture.size
        part = 1 - 0.08 * (turn % 5)
        left, top = int(width * (1 - part) * (turn % 3) / 2), int(height * (1 - part) * (turn % 2))
        shown = picture.crop((left, top, left + int(width * part), top + int(height * part)))
        yield str(i), ImageOps.mirror(shown) if turn % 2 else shown


def references(folder: Path | None) -> dict[str, list[str]]:
    """The captions of each picture by its name, where there are some."""
    file = None if folder is None else folder / "captions.txt"
    found: dict[str, list[str]] = {}
    if file is not None and file.exists():
        with file.open(newline="", encoding="utf-8") as lines:
            for row in csv.DictReader(lines):
                found.setdefault(row["image"], []).append(row["caption"])
    return found


def captions(dtype: torch.dtype, shown: dict[str, Image.Image], beams: int) -> tuple[dict[str, str], float]:
    """The texts and the seconds per picture."""
    model = EPALM.from_pretrained("starter", device="cpu", dtype=dtype)
    begin = time.perf_counter()
    texts: dict[str, str] = {}
    names = list(shown)
    for i in range(0, len(names), BATCH):
        part = names[i : i + BATCH]
        texts |= zip(part, model.generate([Request(shown[name]) for name in part], beams), strict=True)
    return texts, (time.perf_counter() - begin) / len(shown)


def worth(texts: dict[str, str], answers: dict[str, list[str]]) -> str:
    """The metrics of these texts in words; nothing where there are no captions to compare with."""
    if not texts.keys() <= answers.keys():
        return ""
    found = score_captions(texts, {name: answers[name] for name in texts}, False).corpus
    return "".join(f", {name} {100 * found[name]:.1f}" for name in METRICS)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="a folder of pictures, perhaps in Flickr8k's layout")
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--beams", type=int, default=1)
    args = parser.parse_args()
    shown, answers = dict(pictures(args.data, args.count)), references(args.data)
    table = Table("precision", "Captions that change with the precision")
    exact, seconds = captions(torch.float32, shown, args.beams)
    case = f"starter, {len(shown)} {'photos of Flickr8k' if answers else 'pictures'}"
    note = f"{len(Counter(exact.values()))} different captions{worth(exact, answers)}"
    table.add(Row(case, "float32", [seconds], "s each", note))
    for dtype in (torch.bfloat16, torch.int8):
        texts, seconds = captions(dtype, shown, args.beams)
        changed = sum(exact[name] != texts[name] for name in exact) / len(exact)
        note = f"{changed:.1%} of the captions differ from float32's{worth(texts, answers)}"
        table.add(Row(case, str(dtype).removeprefix("torch."), [seconds], "s each", note))
    table.save()


if __name__ == "__main__":
    main()
