"""The seven benchmarks with a handful of items each, in the layout and the words of the official files.

    write_tiny("gqa", Path("tiny/gqa"))        # what `python -m train prepare gqa --source tiny/gqa` reads

Pictures show coloured shapes, videos coloured shapes in motion, sounds are tones and noise: what is asked for
can be perceived, and cannot be guessed.
"""

import csv
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile
from PIL import Image, ImageDraw

COLOURS = {"red": (220, 20, 20), "green": (20, 150, 40), "blue": (30, 50, 220), "yellow": (240, 210, 0)}
SHAPES = ("square", "circle", "bar")
WAYS = ("right", "left")
SOUNDS = ("low tone", "high tone", "noise", "row of beeps")
FRAMES = ("a {}", "there is a {}", "one {}", "a {} alone", "this is a {}")  # around what a caption names

TRAIN, VAL, TEST = range(8), range(8, 14), range(14, 20)  # numbers of the things in each split
PARTS = {"train": TRAIN, "val": VAL, "test": TEST}
TRAIN_CAPTIONS, REFERENCES = 2, 5


def colour(number: int) -> str:
    return list(COLOURS)[number % len(COLOURS)]


def shape(number: int) -> str:
    return SHAPES[number % len(SHAPES)]


def way(number: int) -> str:
    return WAYS[number % len(WAYS)]


def captions(name: str, count: int) -> list[str]:
    return [frame.format(name) for frame in FRAMES[:count]]


def count_for(split: str) -> int:
    return TRAIN_CAPTIONS if split == "train" else REFERENCES


# ---------------------------------------------------------------- media


def draw(number: int, x: int) -> Image.Image:
    """64×48, the thing of this number with its left edge at x."""
    image = Image.new("RGB", (64, 48), "white")
    pen = ImageDraw.Draw(image)
    fill = COLOURS[colour(number)]
    if shape(number) == "circle":
        pen.ellipse((x, 12, x + 24, 36), fill)
    else:
        pen.rectangle((x, 12, x + 24, 36) if shape(number) == "square" else (x, 20, x + 24, 28), fill)
    return image


def write_picture(number: int, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draw(number, 20).save(path, quality=90)


def write_video(number: int, path: Path) -> None:
    """Half a second in which the thing crosses the picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264" if path.suffix == ".mp4" else "mpeg4", rate=24)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(12):
            x = 3 * i if way(number) == "right" else 36 - 3 * i
            container.mux(stream.encode(av.VideoFrame.from_image(draw(number, x))))
        container.mux(stream.encode())


def sound(number: int) -> str:
    return SOUNDS[number % len(SOUNDS)]


def write_sound(number: int, path: Path) -> None:
    """One second at 16 kHz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(16_000) / 16_000
    chance = np.random.default_rng(number)
    pitch = (250 if sound(number) == "low tone" else 2500) * chance.uniform(0.9, 1.1)
    wave = np.sin(2 * np.pi * pitch * time)
    if sound(number) == "noise":
        wave = chance.normal(0, 0.5, time.size)
    if sound(number) == "row of beeps":
        wave *= np.sin(2 * np.pi * 5 * time) > 0
    soundfile.write(path, 0.4 * wave, 16_000)


def write_json(content: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


# ---------------------------------------------------------------- names and texts


def coco_year(number: int) -> str:
    """Karpathy's val, test and restval pictures are all of val2014."""
    return "train2014" if number in range(6) else "val2014"


def coco_name(number: int) -> str:
    return f"COCO_{coco_year(number)}_{coco_id(number):012d}"


def coco_id(number: int) -> int:
    return 1000 + 7 * number


def coco_split(number: int) -> str:
    if number in TRAIN:
        return "train" if coco_year(number) == "train2014" else "restval"
    return "val" if number in VAL else "test"


def gqa_name(number: int) -> str:
    return f"n{2000 + number}" if number % 2 else str(2000 + number)


def youtube_name(number: int) -> str:
    """As in MSVD: an id that may begin with a dash, and the times in the film."""
    return f"-{'abcdefghij'[number % 10]}{number:02d}XyZ_w4k_{number}_{number + 10}"


def clip_name(number: int) -> str:
    return f"--{'abcdefghij'[number % 10]}{number:02d}qR5tUvW"


def question(number: int) -> tuple[str, str]:
    """A question about a picture or a video, and its answer."""
    if number % 2:
        return f"what color is the {shape(number)}?", colour(number)
    return f"what is the {colour(number)} thing?", shape(number)


def human_answers(number: int) -> list[str]:
    """Ten people rarely agree."""
    answer = question(number)[1]
    return [answer] * 7 + [f"a {answer}"] * 2 + ["thing"]


def thing(number: int) -> str:
    return f"{colour(number)} {shape(number)}"


def film(number: int) -> str:
    return f"{thing(number)} moving to the {way(number)}"


# ---------------------------------------------------------------- official files


def write_tiny(name: str, folder: Path) -> Path:
    """Write a benchmark as its official archives unpack; returns `folder`."""
    OFFICIAL[name](folder)
    return folder


def write_coco(folder: Path, pictures: Path) -> None:
    images = []
    for number in (*TRAIN, *VAL, *TEST):
        file = f"{coco_name(number)}.jpg"
        write_picture(number, pictures / coco_year(number) / file)
        texts = captions(thing(number), TRAIN_CAPTIONS if number in TRAIN else REFERENCES)
        images.append(
            {
                "filepath": coco_year(number),
                "filename": file,
                "imgid": number,
                "cocoid": coco_id(number),
                "split": coco_split(number),
                "sentids": [10 * number + i for i in range(len(texts))],
                "sentences": [
                    {"tokens": text.split(), "raw": text, "imgid": number, "sentid": 10 * number + i}
                    for i, text in enumerate(texts)
                ],
            }
        )
    write_json({"images": images, "dataset": "coco"}, folder / "dataset_coco.json")


def write_vqa(folder: Path) -> None:
    write_coco(folder, folder)
    for year in ("train2014", "val2014"):
        numbers = [number for number in (*TRAIN, *VAL, *TEST) if coco_year(number) == year]
        write_json(
            {
                "info": {"version": "2.0"},
                "task_type": "Open-Ended",
                "data_subtype": year,
                "questions": [
                    {
                        "image_id": coco_id(number),
                        "question": question(number)[0],
                        "question_id": 1000 * coco_id(number),
                    }
                    for number in numbers
                ],
            },
            folder / f"v2_OpenEnded_mscoco_{year}_questions.json",
        )
        write_vqa_annotations(numbers, year, folder)


def write_vqa_annotations(numbers: Iterable[int], year: str, folder: Path) -> None:
    rows = [
        {
            "question_type": " ".join(question(number)[0].split()[:2]),
            "multiple_choice_answer": question(number)[1],
            "answers": [
                {"answer": answer, "answer_confidence": "yes", "answer_id": i}
                for i, answer in enumerate(human_answers(number), 1)
            ],
            "image_id": coco_id(number),
            "answer_type": "other",
            "question_id": 1000 * coco_id(number),
        }
        for number in numbers
    ]
    content = {"info": {"version": "2.0"}, "data_subtype": year, "annotations": rows}
    write_json(content, folder / f"v2_mscoco_{year}_annotations.json")


def write_gqa(folder: Path) -> None:
    for split, numbers in (("train", TRAIN), ("val", VAL), ("testdev", TEST)):
        content = {}
        for number in numbers:
            text, answer = question(number)
            write_picture(number, folder / "images" / f"{gqa_name(number)}.jpg")
            content[f"{number:08d}"] = {
                "semantic": [{"operation": "select", "dependencies": [], "argument": shape(number)}],
                "entailed": [],
                "equivalent": [f"{number:08d}"],
                "question": text,
                "imageId": gqa_name(number),
                "isBalanced": True,
                "groups": {"global": None, "local": "1"},
                "answer": answer,
                "semanticStr": f"select: {shape(number)}",
                "annotations": {"answer": {}, "question": {}, "fullAnswer": {}},
                "types": {"detailed": "weather", "semantic": "attr", "structural": "query"},
                "fullAnswer": f"It is {answer}.",
            }
        write_json(content, folder / "questions1.2" / f"{split}_balanced_questions.json")


def write_msrvtt(folder: Path) -> None:
    for file, place, splits in (
        ("train_val_videodatainfo.json", "TrainValVideo", {"train": "train", "val": "validate"}),
        ("test_videodatainfo.json", "TestVideo", {"test": "test"}),
    ):
        videos: list[dict[str, Any]] = []
        sentences: list[dict[str, Any]] = []
        for split, word in splits.items():
            for number in PARTS[split]:
                video = f"video{number}"
                write_video(number, folder / place / f"{video}.mp4")
                about = {"category": 0, "url": "https://example.org", "start time": 0.0, "end time": 0.5}
                videos.append({**about, "video_id": video, "split": word, "id": number})
                sentences += [
                    {"caption": text, "video_id": video, "sen_id": 10 * number + i}
                    for i, text in enumerate(captions(film(number), count_for(split)))
                ]
        sentences.reverse()  # the official ones are in no order of the videos either
        sentences.sort(key=lambda row: row["sen_id"] % 10)
        write_json({"info": {"version": "1.0"}, "videos": videos, "sentences": sentences}, folder / file)


def write_video_qa(folder: Path, category: dict[str, int]) -> None:
    for split, numbers in PARTS.items():
        rows = [
            category
            | {
                "answer": question(number)[1],
                "id": 500 + number,
                "question": question(number)[0],
                "video_id": number,
            }
            for number in numbers
        ]
        write_json(rows, folder / f"{split}_qa.json")


def write_msrvtt_qa(folder: Path) -> None:
    write_video_qa(folder, {"category_id": 14})
    for number in (*TRAIN, *VAL, *TEST):
        write_video(number, folder / "video" / f"video{number}.mp4")


def write_msvd_qa(folder: Path) -> None:
    write_video_qa(folder, {})
    for number in (*TRAIN, *VAL, *TEST):
        write_video(number, folder / "YouTubeClips" / f"{youtube_name(number)}.avi")
    pairs = (f"{youtube_name(number)} vid{number}\n" for number in (*TRAIN, *VAL, *TEST))
    (folder / "youtube_mapping.txt").write_text("".join(pairs))


def write_audiocaps(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for split, numbers in PARTS.items():
        rows = []
        for number in numbers:
            write_sound(number, folder / split / f"{clip_name(number)}.wav")
            for i, text in enumerate(captions(sound(number), 1 if split == "train" else REFERENCES)):
                rows.append((90_000 + 10 * number + i, clip_name(number), 30, f"{text}, then nothing"))
        rows.sort(key=lambda row: row[0] % 10)  # captions of a clip are scattered over the official files
        with (folder / f"{split}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("audiocap_id", "youtube_id", "start_time", "caption"), *rows])


OFFICIAL = {
    "vqa_v2": write_vqa,
    "gqa": write_gqa,
    "coco_caption": lambda folder: write_coco(folder, folder),
    "msrvtt_caption": write_msrvtt,
    "msrvtt_qa": write_msrvtt_qa,
    "msvd_qa": write_msvd_qa,
    "audiocaps": write_audiocaps,
}
