"""The seven benchmarks as the original implementation has them, with the items of tiny_benchmarks.

write_original("gqa", Path("tiny/data"))   # what `python -m train prepare gqa --source tiny/data` reads
"""

from pathlib import Path
from typing import Any

from tests.helpers.tiny_benchmarks import (
    PARTS,
    REFERENCES,
    TEST,
    TRAIN,
    TRAIN_CAPTIONS,
    VAL,
    captions,
    clip_name,
    coco_id,
    coco_name,
    coco_year,
    film,
    gqa_name,
    question,
    sound,
    write_coco,
    write_json,
    write_picture,
    write_sound,
    write_video,
    write_vqa_annotations,
    youtube_name,
)


def write_original(name: str, folder: Path) -> Path:
    """Write a benchmark as the original implementation's `data` folder has it; returns `folder`."""
    ORIGINAL[name](folder)
    return folder


def write_original_vqa(folder: Path) -> None:
    write_coco(folder / "COCO", folder / "COCO" / "images")
    numbers = (*TRAIN, *VAL, *TEST)
    for year in ("train2014", "val2014"):
        of_year = [number for number in numbers if coco_year(number) == year]
        write_vqa_annotations(of_year, year, folder / "vqa")
    for split, part in PARTS.items():
        rows = [
            {
                "answer_type": "other",
                "img_id": coco_name(number),
                "label": {question(number)[1]: 1, f"a {question(number)[1]}": 0.6, "thing": 0.3},
                "question_id": 1000 * coco_id(number),
                "question_type": " ".join(question(number)[0].split()[:2]),
                "sent": question(number)[0],
            }
            for number in part
        ]
        write_json(rows, folder / "vqa" / f"karpathy_{split}.json")
    write_json({"red": 0}, folder / "vqa" / "trainval_ans2label.json")
    write_json(["red"], folder / "vqa" / "trainval_label2ans.json")


def write_original_gqa(folder: Path) -> None:
    for split, numbers in (("train", TRAIN), ("valid", VAL), ("testdev", TEST)):
        pictures = "GQA/images" if split == "testdev" else "VG/VG_100K"
        rows = []
        for number in numbers:
            write_picture(number, folder / pictures / f"{gqa_name(number)}.jpg")
            text, answer = question(number)
            rows.append(
                {
                    "img_id": gqa_name(number),
                    "label": {answer: 1.0},
                    "question_id": f"{number:08d}",
                    "sent": text,
                }
            )
        write_json(rows, folder / "GQA" / f"{split}.json")


def write_original_captions(folder: Path) -> None:
    for number in (*TRAIN, *VAL, *TEST):
        write_video(number, folder / "MSRVTT" / "videos" / "all" / f"video{number}.mp4")
    train = [
        {"video": f"video{number}.mp4", "caption": text}
        for number in (*TRAIN, *VAL)
        for text in captions(film(number), TRAIN_CAPTIONS if number in TRAIN else REFERENCES)
    ]
    test = [{"video": f"video{number}.mp4", "caption": captions(film(number), 5)} for number in TEST]
    write_json(train, folder / "MSRVTT" / "annotation" / "msrvtt_caption_train7k.json")
    write_json(test, folder / "MSRVTT" / "annotation" / "msrvtt_caption_test.json")


def write_original_video_qa(folder: Path, benchmark: str) -> None:
    for split, numbers in PARTS.items():
        rows = []
        for number in numbers:
            video = f"video{number}.mp4" if benchmark == "MSRVTT" else f"{youtube_name(number)}.avi"
            write_video(number, folder / benchmark / "videos" / "all" / video)
            text, answer = question(number)
            rows.append(
                {"video": video, "question": text, "question_id": 500 + number, "label": {answer: 1.0}}
            )
        write_json(rows, folder / benchmark / "annotation" / f"{benchmark.lower()}_vqa_{split}.json")


def write_original_audiocaps(folder: Path) -> None:
    for split, numbers in PARTS.items():
        rows: list[dict[str, Any]] = []
        for number in numbers:
            file = f"{split}/{clip_name(number)}.wav"
            write_sound(number, folder / "audiocaps" / "audios" / file)
            texts = [f"{text}, then nothing" for text in captions(sound(number), REFERENCES)]
            rows.append({"audio": file, "caption": texts[0] if split == "train" else texts})
        write_json(rows, folder / "audiocaps" / "annotation" / f"audiocaps_caption_{split}.json")


ORIGINAL = {
    "vqa_v2": write_original_vqa,
    "gqa": write_original_gqa,
    "coco_caption": lambda folder: write_coco(folder / "COCO", folder / "COCO" / "images"),
    "msrvtt_caption": write_original_captions,
    "msrvtt_qa": lambda folder: write_original_video_qa(folder, "MSRVTT"),
    "msvd_qa": lambda folder: write_original_video_qa(folder, "MSVD"),
    "audiocaps": write_original_audiocaps,
}
