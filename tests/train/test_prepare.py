"""Preparing a benchmark: official files, or the original's, become manifests of media that surely open."""

import sys
from pathlib import Path

import pytest

from epalm.errors import EPALMError
from tests.helpers import tiny_benchmarks as tiny
from tests.helpers.preparing import prepared, refusal
from tests.helpers.tiny_benchmarks import write_tiny
from tests.helpers.tiny_original import write_original
from train.__main__ import main
from train.data.benchmarks import DATASETS, PAPER, find_dataset
from train.data.benchmarks.files import Files
from train.data.manifest import Item

SIZES = {
    "vqa_v2": {"train": 6, "val": 14, "karpathy_train": 8, "karpathy_val": 6, "karpathy_test": 6},
    "gqa": {"train": 8, "val": 6, "testdev": 6},
    "coco_caption": {"train": 16, "val": 6, "test": 6},
    "msrvtt_caption": {"train": 16, "val": 6, "train7k": 46, "test": 6},
    "msrvtt_qa": {"train": 8, "val": 6, "test": 6},
    "msvd_qa": {"train": 8, "val": 6, "test": 6},
    "audiocaps": {"train": 8, "val": 6, "test": 6},
}
EXAMPLES = {  # split, item: id, name of the medium, prompt, answers, group
    "vqa_v2": (
        "karpathy_val",
        Item(
            "1063000",
            "COCO_val2014_000000001063.jpg",
            "what color is the square?",
            ("green",) * 7 + ("a green",) * 2 + ("thing",),
            {"question_type": "what color", "answer_type": "other"},
        ),
    ),
    "gqa": (
        "testdev",
        Item(
            "00000015",
            "n2015.jpg",
            "what color is the square?",
            ("yellow",),
            {"structural": "query", "semantic": "attr"},
        ),
    ),
    "coco_caption": (
        "val",
        Item(
            "COCO_val2014_000000001063",
            "COCO_val2014_000000001063.jpg",
            None,
            (
                "a green square",
                "there is a green square",
                "one green square",
                "a green square alone",
                "this is a green square",
            ),
        ),
    ),
    "msrvtt_caption": (
        "train7k",
        Item("video7-1", "video7.mp4", None, ("there is a yellow circle moving to the left",)),
    ),
    "msrvtt_qa": (
        "test",
        Item("514", "video14.mp4", "what is the blue thing?", ("bar",), {"question_type": "what"}),
    ),
    "msvd_qa": (
        "test",
        Item("514", "-e14XyZ_w4k_14_24.avi", "what is the blue thing?", ("bar",), {"question_type": "what"}),
    ),
    "audiocaps": (
        "val",
        Item(
            "--i08qR5tUvW",
            "--i08qR5tUvW.wav",
            None,
            tuple(
                f"{text}, then nothing"
                for text in (
                    "a low tone",
                    "there is a low tone",
                    "one low tone",
                    "a low tone alone",
                    "this is a low tone",
                )
            ),
        ),
    ),
}


@pytest.mark.parametrize("name", PAPER)
def test_official_files_become_one_manifest_per_split(name, official, tmp_path):
    splits = prepared(name, official[name], tmp_path, workers=2)
    assert {split: len(items) for split, items in splits.items()} == SIZES[name]
    assert splits.keys() <= PAPER[name].splits.keys()
    for items in splits.values():
        assert all(Path(item.media).is_file() and Path(item.media).is_absolute() for item in items)
        assert all((item.prompt is None) == (PAPER[name].task == "caption") for item in items)
    split, expected = EXAMPLES[name]
    found = {item.id: item for item in splits[split]}[expected.id]
    assert Path(found.media).name == expected.media
    assert (found.prompt, found.answers, found.group) == (expected.prompt, expected.answers, expected.group)


@pytest.mark.parametrize("name", PAPER)
def test_the_originals_lists_give_the_same_items(name, official, tmp_path):
    def comparable(splits):
        return {
            split: sorted((i.id, Path(i.media).name, i.prompt, i.answers) for i in items)
            for split, items in splits.items()
        }

    ours = comparable(prepared(name, official[name], tmp_path / "ours", check=False))
    source = write_original(name, tmp_path / "data")
    theirs = comparable(prepared(name, source, tmp_path / "theirs", check=False))
    assert len(theirs) >= 2
    assert theirs == {split: ours[split] for split in theirs}


def test_all_benchmarks_of_the_original_may_share_one_folder(tmp_path):
    for name in PAPER:
        write_original(name, tmp_path / "data")
    for name in PAPER:
        splits = prepared(name, tmp_path / "data", tmp_path / name, check=False)
        assert {split: len(items) for split, items in splits.items()} == {
            split: SIZES[name][split] for split in splits
        }


def test_every_question_is_in_one_of_karpathys_splits_and_restval_is_for_training(official, tmp_path):
    splits = prepared("vqa_v2", official["vqa_v2"], tmp_path, check=False)
    parts = [{item.id for item in splits[f"karpathy_{part}"]} for part in ("train", "val", "test")]
    assert set.union(*parts) == {item.id for item in splits["train"] + splits["val"]}
    assert sum(map(len, parts)) == 20
    assert any("val2014" in item.media for item in splits["karpathy_train"])


def test_test_questions_without_answers(official, tmp_path):
    questions = [{"image_id": 1063, "question": "what?", "question_id": 7}]
    tiny.write_json({"questions": questions}, tmp_path / "v2_OpenEnded_mscoco_test2015_questions.json")
    tiny.write_picture(1, tmp_path / "test2015" / "COCO_test2015_000000001063.jpg")
    splits = prepared("vqa_v2", tmp_path, tmp_path / "out", check=False)
    assert [(i.id, i.prompt, i.answers) for i in splits["test"]] == [("7", "what?", ())]


@pytest.mark.parametrize(
    "rename",
    [
        lambda name, number: f"Y{name}.wav",
        lambda name, number: f"{name}_30.wav",
        lambda name, number: f"{name}_30_40.flac",
        lambda name, number: f"{name}_30000_40000.wav",
        lambda name, number: f"Y{name}_30_40.wav",
        lambda name, number: f"Y{name}_30000.wav",
        lambda name, number: f"Y{name}_30.000_40.000.wav",
        lambda name, number: f"{90_000 + 10 * number}.wav",
    ],
)
def test_sounds_are_found_under_the_names_that_downloaders_give(rename, tmp_path):
    write_tiny("audiocaps", tmp_path / "in")
    for number in (*tiny.TRAIN, *tiny.VAL, *tiny.TEST):
        (path,) = (tmp_path / "in").rglob(f"{tiny.clip_name(number)}.wav")
        path.rename(tmp_path / "in" / rename(tiny.clip_name(number), number))
    splits = prepared("audiocaps", tmp_path / "in", tmp_path / "out", check=False)
    assert {split: len(items) for split, items in splits.items()} == SIZES["audiocaps"]


def test_msvd_videos_by_number_need_no_mapping(official, tmp_path):
    source = tmp_path / "in"
    tiny.write_video_qa(source, {})
    for number in (*tiny.TRAIN, *tiny.VAL, *tiny.TEST):
        tiny.write_video(number, source / "video" / f"vid{number}.avi")
    assert len(prepared("msvd_qa", source, tmp_path / "out", check=False)["train"]) == 8


def test_media_may_lie_elsewhere_behind_links_and_be_of_another_kind(tmp_path):
    write_tiny("coco_caption", tmp_path / "in")
    elsewhere = tmp_path / "pool"
    for year in ("train2014", "val2014"):
        (tmp_path / "in" / year).rename(tmp_path / year)
        elsewhere.mkdir(exist_ok=True)
        (elsewhere / year).symlink_to(tmp_path / year)
    (tmp_path / "val2014" / "round").symlink_to(tmp_path / "val2014")  # in circles
    jpeg = tmp_path / "val2014" / f"{tiny.coco_name(8)}.jpg"
    jpeg.rename(jpeg.with_name("000000001056.PNG"))  # COCO's names since 2017
    jpeg.with_name("._000000001056.png").touch()  # what macOS leaves behind
    splits = prepared("coco_caption", tmp_path / "in", tmp_path / "out", media=[elsewhere], check=False)
    assert {split: len(items) for split, items in splits.items()} == SIZES["coco_caption"]
    assert splits["val"][0].media == str(elsewhere / "val2014" / "000000001056.PNG")


# ---------------------------------------------------------------- files that are not what they should be

ANNOTATION = {
    "vqa_v2": "v2_mscoco_val2014_annotations.json",
    "gqa": "val_balanced_questions.json",
    "coco_caption": "dataset_coco.json",
    "msrvtt_caption": "test_videodatainfo.json",
    "msrvtt_qa": "val_qa.json",
    "msvd_qa": "val_qa.json",
    "audiocaps": "val.csv",
}


@pytest.mark.parametrize("name", PAPER)
def test_a_broken_download_is_named_in_one_sentence(name, tmp_path):
    source = write_tiny(name, tmp_path / "in")
    (path,) = source.rglob(ANNOTATION[name])
    content = path.read_bytes()
    path.write_bytes(content[: content.rindex(b"," if name != "audiocaps" else b'"')])
    assert str(path) in refusal(name, source, tmp_path / "out")
    path.write_bytes(b"[3]" if name != "audiocaps" else b"<!DOCTYPE html>")
    assert str(path) in refusal(name, source, tmp_path / "out")
    path.write_bytes(b"{}" if name != "audiocaps" else b"audiocap_id,youtube_id,start_time,caption\n1,2")
    told = "The files of the split val" if name == "gqa" else str(path)
    assert told in refusal(name, source, tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "file", "old", "new", "told"),
    [
        ("vqa_v2", "v2_OpenEnded_mscoco_val2014_questions.json", '"question_id"', '"id"', "'question_id' in"),
        (
            "vqa_v2",
            "v2_mscoco_val2014_annotations.json",
            '"question_id": 1',
            '"question_id": 2',
            "no answers",
        ),
        (
            "vqa_v2",
            "dataset_coco.json",
            '"cocoid": 1',
            '"cocoid": 2',
            "does not list the picture of question",
        ),
        ("gqa", "val_balanced_questions.json", '"imageId"', '"image"', "'imageId' in entry 1"),
        ("coco_caption", "dataset_coco.json", '"split": "restval"', '"split": "x"', "the split 'x'"),
        ("coco_caption", "dataset_coco.json", '"raw"', '"text"', "'raw' in entry 1"),
        ("msrvtt_qa", "val_qa.json", '"answer": ', '"answers": ', "'answer' in entry 1"),
        ("msvd_qa", "youtube_mapping.txt", " vid", " vid ", "youtube_mapping.txt:1 is not a pair"),
        ("audiocaps", "val.csv", "start_time", "start", "has no column 'start_time'"),
    ],
)
def test_a_file_of_another_form_is_named_in_one_sentence(name, file, old, new, told, tmp_path):
    source = write_tiny(name, tmp_path / "in")
    (path,) = source.rglob(file)
    path.write_text(path.read_text().replace(old, new))
    assert told in refusal(name, source, tmp_path / "out", check=False)


def test_what_is_not_there_is_said_with_where_to_get_it(tmp_path):
    source = write_tiny("vqa_v2", tmp_path / "in")
    (source / "v2_mscoco_val2014_annotations.json").unlink()
    assert "v2_mscoco_val2014_annotations.json is not under" in refusal("vqa_v2", source, tmp_path / "out")
    text = refusal("gqa", source, tmp_path / "out")
    assert "has no annotation files of GQA" in text and "cs.stanford.edu/people/dorarad/gqa" in text
    assert "cannot be read as a folder" in refusal("gqa", tmp_path / "nowhere", tmp_path / "out")
    for path in source.rglob("*.jpg"):
        path.unlink()
    text = refusal("coco_caption", source, tmp_path / "out")
    assert text.startswith("None of the 20 pictures of COCO captions is under")
    assert "COCO_train2014_000000001000" in text


def test_two_files_of_one_name_are_not_guessed_between(tmp_path):
    for version in ("dataset", "dataset2.0"):
        write_tiny("audiocaps", tmp_path / version)
    assert "exist; give --source" in refusal("audiocaps", tmp_path, tmp_path / "out")
    sounds = tmp_path / "dataset"
    assert prepared("audiocaps", tmp_path / "dataset2.0", tmp_path / "out", media=[sounds], check=False)
    write_tiny("audiocaps", tmp_path / "x" / "y")  # further down than the next
    (tmp_path / "x" / "train.csv").write_text("audiocap_id,youtube_id,start_time,caption\n1,a,0,b\n")
    assert Files(tmp_path / "x", "audio").find("train.csv") == tmp_path / "x" / "train.csv"


# ---------------------------------------------------------------- the command


def test_the_command(official, tmp_path, monkeypatch, capsys):
    arguments = ["prepare", "gqa", "--source", str(official["gqa"]), "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["train", *arguments, "--workers", "1"])
    assert main() == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == f"{tmp_path / 'out' / 'train'}.jsonl: 8 items, 8 pictures"
    assert out[-1] == "All 20 pictures are there."
    monkeypatch.setattr(sys, "argv", ["train", *arguments, "--workers", "0"])
    assert main() == 2
    assert "must be at least 1" in capsys.readouterr().err


def test_its_help_says_where_everything_is(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train", "prepare", "--help"])
    with pytest.raises(SystemExit):
        main()
    text = capsys.readouterr().out
    for dataset in DATASETS.values():
        assert f"{dataset.name}: {dataset.title}" in text
        assert all(f"DIR/{path}" in text for path in dataset.layout)
        assert all(f"{split}.jsonl: " in text for split in dataset.splits)
    assert max(map(len, text.splitlines())) <= 110


def test_unknown_benchmarks():
    with pytest.raises(EPALMError, match="'msvd' is not a benchmark: did you mean msvd_qa"):
        find_dataset("msvd")
