"""The small public sets with a handful of items each, in the layouts that people download.

write_flickr8k(Path("tiny/flickr8k"))            # as the authors send it
write_flickr8k(Path("tiny/copy"), kaggle=True)   # as the usual copy has it
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.helpers.tiny_benchmarks import FRAMES, PARTS, colour, shape, write_picture, write_sound

ESC10 = ("Dog bark", "Rain", "Sea waves", "Baby cry")
ESC50 = ("dog", "rain", "vacuum_cleaner", "crying_baby")
URBAN = {0: "air_conditioner", 3: "dog_bark", 8: "siren"}


def write_lines(path: Path, lines: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def write_table(path: Path, rows: Iterable[Sequence[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def photo(number: int) -> str:
    return f"{1_000_000 + number}_{number:010x}.jpg"


def write_flickr8k(folder: Path, kaggle: bool = False) -> Path:
    """Twenty photos with five captions; a copy has no lists of the splits."""
    captions = {
        photo(number): [f"{frame.format(colour(number))} , {shape(number)} ." for frame in FRAMES]
        for numbers in PARTS.values()
        for number in numbers
    }
    for number, name in enumerate(captions):
        write_picture(number, folder / "Images" / name)
    if kaggle:
        rows = [(name, text) for name, texts in captions.items() for text in texts]
        write_table(folder / "captions.txt", [("image", "caption"), *rows])
        return folder
    texts = folder / "Flickr8k_text"
    tokens = (f"{name}#{i}\t{text}" for name, some in captions.items() for i, text in enumerate(some))
    write_lines(texts / "Flickr8k.token.txt", [*tokens, "9.jpg.1#0\ta photo in no list ."])
    for split, part in {"train": "train", "dev": "val", "test": "test"}.items():
        write_lines(texts / f"Flickr_8k.{split}Images.txt", map(photo, PARTS[part]))
    return folder


def room_question(number: int) -> tuple[str, str]:
    if number % 3 == 0:
        return f"how many lamps are there in the image{number} ?", str(number % 5)
    if number % 3 == 1:
        return f"what is on the left side of the table in the image{number} ?", "garbage_bin"
    return f"what are the things on the bed in this image{number} ?", "pillow, tape_dispenser"


def write_daquar(folder: Path, official: bool = True) -> Path:
    """Sixty photos with one question each, a third of them for the test."""
    parts = {"train": range(1, 41), "test": range(41, 61)}
    for number in range(1, 61):
        write_picture(number, folder / "nyu_depth_images" / f"image{number}.jpg")
    pairs = {part: [text for n in numbers for text in room_question(n)] for part, numbers in parts.items()}
    if official:
        for part, lines in pairs.items():
            write_lines(folder / f"qa.894.raw.{part}.txt", lines)
            write_lines(folder / f"qa.37.raw.{part}.txt", lines[:10])
        return folder
    write_lines(folder / "all_qa_pairs.txt", pairs["train"] + pairs["test"])
    for part, numbers in parts.items():
        write_lines(folder / f"{part}_images_list.txt", (f"image{number}" for number in numbers))
    return folder


def write_esc10(folder: Path) -> Path:
    """The ESC-10 repository: a folder per class."""
    for number, label in enumerate(ESC10):
        for fold in range(1, 6):
            write_sound(number, folder / f"{number + 1:03d} - {label}" / f"{fold}-17{number}{fold}-A.ogg")
    return folder


def write_esc50(folder: Path) -> Path:
    """The ESC-50 repository: a folder of clips and a table."""
    rows = []
    for number, label in enumerate(ESC50):
        for fold in range(1, 6):
            name = f"{fold}-17{number}{fold}-A-{number}.wav"
            write_sound(number, folder / "audio" / name)
            rows.append((name, fold, number, label, label != "vacuum_cleaner", f"17{number}{fold}", "A"))
    header = ("filename", "fold", "target", "category", "esc10", "src_file", "take")
    write_table(folder / "meta" / "esc50.csv", [header, *rows])
    return folder


def write_urbansound8k(folder: Path, table: bool = True) -> Path:
    rows = []
    for fold in range(1, 11):
        for number, label in URBAN.items():
            name = f"10{fold}{number}-{number}-0-1.wav"
            write_sound(number, folder / "audio" / f"fold{fold}" / name)
            rows.append((name, f"10{fold}{number}", 0.0, 1.0, 1, fold, number, label))
    header = ("slice_file_name", "fsID", "start", "end", "salience", "fold", "classID", "class")
    if table:
        write_table(folder / "metadata" / "UrbanSound8K.csv", [header, *rows])
    return folder


SMALL = {
    "flickr8k": write_flickr8k,
    "daquar": write_daquar,
    "esc10": write_esc10,
    "esc50": write_esc50,
    "urbansound8k": write_urbansound8k,
}
