"""What int8 and bfloat16 weights change: `python -m benchmarks.precision`, minutes, not in `make bench`.

The starter's captions of 500 pictures: those of a folder, or crops and flips of the example pictures.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch
from PIL import Image, ImageOps

from benchmarks.timing import Row, Table
from epalm import EPALM, Request

ROOT = Path(__file__).parent.parent
BATCH = 8


def pictures(folder: Path | None, count: int) -> Iterator[Image.Image]:
    """Pictures of a folder, or crops of the example pictures and of those that the example trains on."""
    if folder is not None:
        found = (path for path in sorted(folder.rglob("*")) if path.suffix in (".jpg", ".jpeg", ".png"))
        yield from (Image.open(path).convert("RGB") for path in found)
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
        yield ImageOps.mirror(shown) if turn % 2 else shown


def captions(dtype: torch.dtype, shown: list[Image.Image], beams: int) -> tuple[list[str], float]:
    """The texts and the seconds per picture."""
    model = EPALM.from_pretrained("starter", device="cpu", dtype=dtype)
    begin = time.perf_counter()
    texts: list[str] = []
    for i in range(0, len(shown), BATCH):
        texts += model.generate([Request(picture) for picture in shown[i : i + BATCH]], beams)
    return texts, (time.perf_counter() - begin) / len(shown)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=Path, help="a folder of pictures")
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--beams", type=int, default=1)
    args = parser.parse_args()
    shown = list(pictures(args.pictures, args.count))[: args.count]
    table = Table("precision", "Captions that change with the precision")
    exact, seconds = captions(torch.float32, shown, args.beams)
    case = f"starter, {len(shown)} pictures"
    table.add(Row(case, "float32", [seconds], "s each", f"{len(Counter(exact))} different captions"))
    for dtype in (torch.bfloat16, torch.int8):
        texts, seconds = captions(dtype, shown, args.beams)
        changed = sum(a != b for a, b in zip(exact, texts, strict=True)) / len(shown)
        name = str(dtype).removeprefix("torch.")
        table.add(
            Row(case, name, [seconds], "s each", f"{changed:.1%} of the captions differ from float32's")
        )
    table.save()


if __name__ == "__main__":
    main()
