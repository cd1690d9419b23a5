"""Damaged files and requests by the thousand: each is answered or refused, in bounded time and memory.

    python -m benchmarks.fuzz                       # 5,000 of them, the same ones every time
    python -m benchmarks.fuzz --count 500 --seed 7
    python -m benchmarks.fuzz --keep lost           # also writes the files that ended a reading process

Whole pictures, videos and sounds of some forty kinds are made, and then damaged: bytes changed, parts lost,
doubled, zeroed or taken from another file, sizes in headers made huge. Each is read as the demo reads what a
visitor sends, in a process that may be lost, and prepared for the starter's encoders. One in five is a
damaged request to a running demo instead (benchmarks/fuzz_requests.py). A run that was ended goes on where it
was. Exit code 1: an answer was not a number, an error was not a sentence, or what is good was not answered
after what is bad.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import soundfile
import torch
from av.audio.stream import AudioStream
from av.video.stream import VideoStream
from PIL import Image
from tqdm import tqdm

from benchmarks.fuzz_requests import Demo
from epalm.errors import EPALMError
from epalm.files import JsonLines, read_json_lines, write_json
from epalm.media.reader import MEGABYTES, ReadingProcess
from epalm.media.recipes import RECIPES

PICTURES = (
    "JPEG",
    "PNG",
    "GIF",
    "WEBP",
    "TIFF",
    "BMP",
    "PPM",
    "TGA",
    "ICO",
    "HEIF",
    "AVIF",
    "JPEG2000",
    "PCX",
)
VIDEOS = (
    ("libx264", "mp4"), ("libx264", "mov"), ("libx264", "matroska"), ("libx264", "mpegts"),
    ("libx264", "h264"), ("libx265", "mp4"), ("libvpx", "webm"), ("libvpx-vp9", "webm"),
    ("mpeg4", "avi"), ("mjpeg", "mov"), ("mpeg2video", "mpeg"), ("flv", "flv"),
)  # fmt: skip
SOUNDS = ("WAV", "FLAC", "OGG", "AIFF", "AU", "CAF", "MP3")
TRACKS = (("aac", "ipod"), ("aac", "adts"), ("libopus", "matroska"), ("pcm_s16le", "mov"), ("wavpack", "wv"),
          ("ac3", "ac3"))  # fmt: skip
EVERY = 5  # each fifth is a request
SLOW = 10.0  # seconds that one may take here; what takes longer is listed
LOST = ("crashed", "too slow")  # ends of a reading process

Row = dict[str, Any]  # number, what, end, seconds, megabytes; why it is wrong, how long a restart took


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=5000, metavar="N", help="of them in all (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="chooses them (%(default)s)")
    parser.add_argument("--seconds", type=float, default=30, metavar="S", help="limit per file (%(default)s)")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="write what ended a reading process here")
    parser.add_argument(
        "--rows", type=Path, metavar="FILE", help="one line per outcome (runs/fuzz-SEED.jsonl)"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the counts here, as JSON")
    args = parser.parse_args(argv)
    path = args.rows or Path("runs") / f"fuzz-{args.seed}.jsonl"
    known = read_json_lines(path) if path.exists() else []
    missing = sorted(set(range(args.count)) - {row["number"] for row in known})
    with JsonLines(path) as rows:
        for row in fuzz(missing, args.seed, args.seconds, args.keep):
            rows.add(row)
    outcome = summary([row for row in read_json_lines(path) if row["number"] < args.count], args.seed)
    print(json.dumps(outcome, indent=2))
    if args.out:
        write_json(args.out, outcome)
    return 1 if outcome["wrong"] else 0


def fuzz(numbers: Sequence[int], seed: int, seconds: float, keep: Path | None = None) -> Iterator[Row]:
    """What became of each; a number names the same damage in every run, in whatever order."""
    whole = whole_files()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        reader = stack.enter_context(ReadingProcess(seconds).start())
        asked = [number for number in numbers if number % EVERY == 0]
        demo = stack.enter_context(Demo(folder)) if asked else None
        for number in tqdm(numbers, unit=" cases", mininterval=1):
            rng = random.Random(f"{seed}-{number}")
            if demo is not None and number % EVERY == 0:
                yield {"number": number} | demo.ask(rng)
                continue
            name = rng.choice(sorted(whole))
            content, damage = damaged(whole[name], whole[rng.choice(sorted(whole))], rng)
            row = outcome_of(content, folder / "damaged.bin", reader, whole["JPEG"])
            if keep and row["end"] in LOST:
                keep.mkdir(parents=True, exist_ok=True)
                (keep / f"{seed}-{number}.bin").write_bytes(content)
            yield {"number": number, "what": f"{name}: {damage}"} | row


def outcome_of(content: bytes, path: Path, reader: ReadingProcess, good: bytes) -> Row:
    """How reading a damaged file ended, how long it took and the most memory that the readers have had."""
    path.write_bytes(content)
    row: Row = {}
    began = time.perf_counter()
    try:
        row["end"] = read(reader, path)
    except Exception as error:
        row |= {"end": "wrong", "why": repr(error)}
    row["seconds"] = round(time.perf_counter() - began, 2)
    if row["end"] in LOST:
        began = time.perf_counter()
        if reader.modality_of(good) != "image":
            row |= {"end": "wrong", "why": "a good file was not read after it"}
        row["restart_ms"] = round(1000 * (time.perf_counter() - began))
    row["megabytes"] = peak_memory(reader)
    return row


def summary(rows: Sequence[Row], seed: int) -> dict[str, Any]:
    """All outcomes as counts and extremes; what was slow, lost or wrong by name."""

    def most(key: str) -> float:
        return max((row[key] for row in rows if key in row), default=0)

    def told(row: Row) -> str:
        why = f" ({row['why']})" if "why" in row else ""
        return f"{row['number']} {row['what']}: {row['end']}, {row['seconds']} s{why}"

    requests = [row for row in rows if row["number"] % EVERY == 0]
    files = [row for row in rows if row["number"] % EVERY]
    return {
        "seed": seed,
        "files": len(files),
        "ends of files": dict(Counter(row["end"] for row in files)),
        "requests": len(requests),
        "ends of requests": dict(Counter(row["end"] for row in requests).most_common()),
        "longest, s": most("seconds"),
        "slowest restart of a reader, ms": most("restart_ms"),
        "most memory of a reader, MB": max((row["megabytes"] for row in files), default=0),
        "its limit, MB": MEGABYTES,
        "most memory of the server, MB": max((row["megabytes"] for row in requests), default=0),
        "slow or lost": [told(row) for row in rows if row["seconds"] > SLOW or row["end"] in LOST],
        "wrong": [told(row) for row in rows if row["end"] == "wrong"],
    }


def read(reader: ReadingProcess, path: Path) -> str:
    """Prepare a file as the starter's adapters do: "answered", "refused", "crashed" or "too slow"."""
    try:
        modality = reader.modality_of(path)
        recipe = RECIPES[modality]["starter"]
        if not torch.isfinite(recipe(recipe.open(path, reader))).all():
            raise ValueError("values that are not numbers")
    except EPALMError as error:
        sentence = str(error)
        if "\n" in sentence or not sentence.endswith("."):
            raise ValueError(f"no sentence: {sentence}") from error
        if "crash" in sentence:
            return "crashed"
        return "too slow" if "to read: make it" in sentence else "refused"
    return "answered"


def peak_memory(reader: ReadingProcess) -> int:
    """Megabytes that the reading processes have had at most; 0 where the system does not say."""
    peaks = [0]
    for worker in list(reader._idle.queue):
        if worker is None:
            continue
        try:
            status = Path(f"/proc/{worker.process.pid}/status").read_text()
        except OSError:
            continue
        peaks += [int(line.split()[1]) >> 10 for line in status.splitlines() if line.startswith("VmHWM")]
    return max(peaks)


# ---------------------------------------------------------------- whole files


def whole_files() -> dict[str, bytes]:
    """Small files of many formats."""
    rng = np.random.default_rng(0)
    pixels = (rng.integers(0, 64, (48, 64, 3)) + np.linspace(0, 190, 64)[None, :, None]).astype(np.uint8)
    picture = Image.fromarray(pixels)
    files = {name: saved(picture, name) for name in PICTURES}
    files["JPEG progressive"] = saved(picture, "JPEG", progressive=True)
    files["JPEG cmyk"] = saved(picture.convert("CMYK"), "JPEG")
    files["PNG palette"] = saved(picture.convert("P"), "PNG", transparency=3)
    files["PNG 16 bit"] = saved(Image.fromarray(pixels[..., 0].astype(np.uint16) * 257), "PNG")
    files["GIF animated"] = saved(picture, "GIF", save_all=True, append_images=[picture.rotate(90)] * 3)
    files["TIFF lzw"] = saved(picture, "TIFF", compression="tiff_lzw")
    for codec, container in VIDEOS:
        files[f"{codec} {container}"] = filmed(codec, container)
    time_ = np.arange(16_000) / 16_000
    wave = np.stack([np.sin(2 * np.pi * 440 * k * time_) for k in (1, 2)], 1).astype(np.float32) * 0.5
    for name in SOUNDS:
        buffer = BytesIO()
        soundfile.write(buffer, wave, 16_000, format=name)
        files[name] = buffer.getvalue()
    for codec, container in TRACKS:
        files[f"{codec} {container}"] = recorded(codec, container)
    return files


def saved(picture: Image.Image, format: str, **options) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def filmed(codec: str, format: str) -> bytes:
    buffer = BytesIO()
    with av.open(buffer, "w", format=format) as container:
        stream = cast(VideoStream, container.add_stream(codec, rate=25))
        stream.width, stream.height = 64, 48
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.gop_size, stream.bit_rate = 6, 200_000
        stream.options = {"x265-params": "log-level=none"} if codec == "libx265" else {}
        for shade in range(0, 240, 10):
            frame = np.full((48, 64, 3), shade, np.uint8)
            frame[:12, :16] = 255, 0, 0
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def recorded(codec: str, format: str) -> bytes:
    buffer, rate = BytesIO(), 48_000
    wave = (0.5 * np.sin(2 * np.pi * 440 * np.arange(rate // 2) / rate)).astype(np.float32)
    with av.open(buffer, "w", format=format) as container:
        stream = cast(AudioStream, container.add_stream(codec, rate=rate, layout="stereo"))
        frame = av.AudioFrame.from_ndarray(np.repeat(wave, 2)[None], "flt", "stereo")
        frame.sample_rate = rate
        for ready in av.AudioResampler(stream.format, "stereo", rate).resample(frame):
            container.mux(stream.encode(ready))
        container.mux(stream.encode(None))
    return buffer.getvalue()


# ---------------------------------------------------------------- damage


def damaged(content: bytes, other: bytes, rng: random.Random) -> tuple[bytes, str]:
    """A file with one to three kinds of damage, and their names."""
    data = bytearray(content)
    kinds = rng.sample(DAMAGE, rng.randint(1, 3))
    for kind in kinds:
        kind(data, other, rng)
    return bytes(data), ", ".join(kind.__name__ for kind in kinds)


def changed_bytes(data: bytearray, other: bytes, rng: random.Random) -> None:
    for _ in range(rng.randint(1, 1 + len(data) // 50)):
        if data:
            data[rng.randrange(len(data))] = rng.randrange(256)


def changed_header(data: bytearray, other: bytes, rng: random.Random) -> None:
    for _ in range(rng.randint(1, 8)):
        if data:
            data[rng.randrange(min(len(data), 256))] = rng.choice(
                (0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256))
            )


def huge_numbers(data: bytearray, other: bytes, rng: random.Random) -> None:
    for _ in range(rng.randint(1, 4)):
        width = rng.choice((2, 4, 8))
        place = rng.randrange(max(1, len(data) - width))
        data[place : place + width] = rng.choice((b"\xff", b"\x7f", b"\x00", b"\x80")) * width


def cut_off(data: bytearray, other: bytes, rng: random.Random) -> None:
    del data[rng.randrange(len(data) + 1) :]


def part_lost(data: bytearray, other: bytes, rng: random.Random) -> None:
    start, end = part(data, rng)
    del data[start:end]


def part_doubled(data: bytearray, other: bytes, rng: random.Random) -> None:
    start, end = part(data, rng)
    data[end:end] = data[start:end] * rng.choice((1, 1, 20))


def part_zero(data: bytearray, other: bytes, rng: random.Random) -> None:
    start, end = part(data, rng)
    data[start:end] = bytes(end - start)


def part_foreign(data: bytearray, other: bytes, rng: random.Random) -> None:
    start, end = part(data, rng)
    begin, stop = part(other, rng)
    data[start:end] = other[begin:stop]


def part(data: bytes | bytearray, rng: random.Random) -> tuple[int, int]:
    start = rng.randrange(len(data) + 1)
    return start, min(len(data), start + rng.randint(1, max(1, len(data) // rng.choice((2, 10, 100)))))


Damage = Callable[[bytearray, bytes, random.Random], None]
DAMAGE: tuple[Damage, ...] = (
    changed_bytes,
    changed_header,
    huge_numbers,
    cut_off,
    part_lost,
    part_doubled,
    part_zero,
    part_foreign,
)


if __name__ == "__main__":
    sys.exit(main())
