"""Annotation files as mirrors, editors and newer releases have them."""

import codecs
import json
from pathlib import Path

import pytest

from epalm.errors import EPALMError
from tests.helpers import tiny_benchmarks as tiny
from tests.helpers.tiny_benchmarks import write_tiny
from tests.helpers.tiny_original import write_original
from train.data.benchmarks import PAPER, find_dataset
from train.data.manifest import Item, load_manifest, save_manifest
from train.data.prepare import prepare, summary


def prepared(name: str, source: Path, out: Path) -> tuple[dict[str, list[Item]], str]:
    """The manifests by split, and what is said."""
    dataset = find_dataset(name)
    report = prepare(dataset, source, out, check=False)
    paths = [path for path in out.glob("*.jsonl") if path.stem != "checked"]
    return {path.stem: load_manifest(path) for path in paths}, summary(dataset, report, out)


def comparable(splits: dict[str, list[Item]]) -> dict[str, list[tuple]]:
    return {
        split: [(i.id, Path(i.media).name, i.prompt, i.answers) for i in items]
        for split, items in splits.items()
    }


# Byte order marks


@pytest.mark.parametrize("name", PAPER)
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_annotations_with_a_byte_order_mark_are_read(name, encoding, tmp_path):
    source = write_tiny(name, tmp_path / "in")
    plain, _ = prepared(name, source, tmp_path / "plain")
    for path in source.rglob("*"):
        if path.suffix in (".json", ".csv", ".txt"):
            path.write_bytes(path.read_text(encoding="utf-8").encode(encoding))
    assert prepared(name, source, tmp_path / "out")[0] == plain


@pytest.mark.parametrize("name", ["vqa_v2", "msrvtt_caption"])
def test_lists_of_the_original_with_a_byte_order_mark_are_recognised(name, tmp_path):
    source = write_original(name, tmp_path / "in")
    plain, _ = prepared(name, source, tmp_path / "plain")
    for path in source.rglob("*.json"):
        path.write_bytes(codecs.BOM_UTF8 + path.read_bytes())
    assert prepared(name, source, tmp_path / "out")[0] == plain


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_manifests_with_a_byte_order_mark_are_read(encoding, tmp_path):
    items = [Item(str(i), str(tmp_path / f"{i}.jpg"), "où ?", ("là", "ici")) for i in range(3)]
    save_manifest(items, tmp_path / "own.jsonl")
    text = (tmp_path / "own.jsonl").read_text()
    mark = "\ufeff" if encoding.endswith(("le", "be")) else ""
    (tmp_path / "own.jsonl").write_bytes((mark + text).encode(encoding))
    assert load_manifest(tmp_path / "own.jsonl") == items


def test_joined_manifests_may_have_a_mark_in_the_middle(tmp_path):
    line = '{"id": "%d", "media": "1.jpg", "prompt": null, "answers": ["a"]}\r\n'
    text = b"".join(codecs.BOM_UTF8 + (line % i).encode() for i in range(2)) + codecs.BOM_UTF8
    (tmp_path / "own.jsonl").write_bytes(text)
    assert [item.id for item in load_manifest(tmp_path / "own.jsonl")] == ["0", "1"]


# What is no manifest


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("image,caption\n1.jpg,a dog\n", "is not a line of a manifest: 'image,caption'"),
        ("[\n{}\n]\n", "is not a line of a manifest: '['"),
        ('{"image": "1.jpg", "caption": "a dog"}\n', "but it has the keys 'image', 'caption'"),
        ('[{"id": "1"}]\n', "but it has a list"),
    ],
)
def test_other_tables_are_told_from_manifests_and_how_to_make_one(content, told, tmp_path):
    (tmp_path / "own.jsonl").write_text(content)
    with pytest.raises(EPALMError) as error:
        load_manifest(tmp_path / "own.jsonl")
    assert told in str(error.value) and "python -m train prepare own_image_caption" in str(error.value)


def test_a_missing_manifest_points_to_prepare(tmp_path):
    with pytest.raises(EPALMError, match="python -m train prepare DATASET"):
        load_manifest(tmp_path / "val.jsonl")


# MSR-VTT


def test_the_mirrors_file_of_msrvtt_gives_the_official_splits(tmp_path):
    source = write_tiny("msrvtt_caption", tmp_path / "in")
    numbers = {"train": (0, 6512), "val": (6513, 7009), "test": (7010, 9999)}
    names = [f"video{number}" for part in numbers.values() for number in part]
    for path in list(source.rglob("*.json")):
        path.unlink()
    for video in names:
        tiny.write_video(1, source / "videos" / "all" / f"{video}.mp4")
    annotations = [
        {"id": i, "image_id": video, "caption": f"{video} {text}"}
        for text in ("one", "two")
        for i, video in enumerate(names)
    ]
    tiny.write_json(
        {"info": {}, "images": [{"id": video} for video in names], "annotations": annotations},
        source / "MSRVTT" / "annotation" / "MSR_VTT.json",
    )
    splits, _ = prepared("msrvtt_caption", source, tmp_path / "out")
    assert {
        split: [item.id for item in items] for split, items in splits.items() if split in ("val", "test")
    } == {split: [f"video{number}" for number in numbers[split]] for split in ("val", "test")}
    assert len(splits["train"]) == 4 and len(splits["train7k"]) == 8
    assert splits["val"][0].answers == ("video6513 one", "video6513 two")


@pytest.mark.parametrize("change", ["no caption", "no split", "unknown split"])
def test_a_video_without_caption_or_split_is_left_out_and_said(change, tmp_path):
    source = write_tiny("msrvtt_caption", tmp_path / "in")
    (path,) = source.rglob("test_videodatainfo.json")
    content = json.loads(path.read_text())
    if change == "no caption":
        content["sentences"] = [row for row in content["sentences"] if row["video_id"] != "video14"]
    elif change == "no split":
        del content["videos"][0]["split"]
    else:
        content["videos"][0]["split"] = "x"
    path.write_text(json.dumps(content))
    splits, said = prepared("msrvtt_caption", source, tmp_path / "out")
    assert [item.id for item in splits["test"]] == [f"video{number}" for number in range(15, 20)]
    assert "1 videos without captions or with no known split are left out, for example video14." in said


# COCO


def test_official_captions_of_coco_have_their_own_splits(tmp_path):
    source = write_tiny("coco_caption", tmp_path / "in")
    for year in ("train2014", "val2014"):
        numbers = [n for part in tiny.PARTS.values() for n in part if tiny.coco_year(n) == year]
        images = [{"id": tiny.coco_id(n), "file_name": f"{tiny.coco_name(n)}.jpg"} for n in numbers]
        texts = [{"image_id": tiny.coco_id(n), "id": n, "caption": f"a {tiny.thing(n)}"} for n in numbers[1:]]
        content = {"images": images, "annotations": texts * 2}
        tiny.write_json(content, source / "annotations" / f"captions_{year}.json")
    tiny.write_json(
        {"images": [{"id": 1000, "file_name": "COCO_train2014_000000001000.jpg"}]},
        source / "annotations" / "image_info_test2014.json",
    )
    splits, said = prepared("coco_caption", source, tmp_path / "out")
    assert splits.keys() == {"train", "val", "test", "train2014", "val2014", "test2014"}
    assert (len(splits["train2014"]), len(splits["val2014"])) == (2 * 5, 13)
    assert splits["val2014"][0].answers == ("a yellow circle",) * 2
    assert splits["test2014"][0].answers == ()
    assert "captions_val2014.json: 1 pictures have no caption and are left out." in said
    (source / "dataset_coco.json").unlink()
    assert prepared("coco_caption", source, tmp_path / "official")[0].keys() == {
        "train2014",
        "val2014",
        "test2014",
    }


# VQA


def test_a_list_of_one_year_needs_the_answers_of_that_year_only(tmp_path):
    source = write_original("vqa_v2", tmp_path / "in")
    whole, _ = prepared("vqa_v2", source, tmp_path / "whole")
    for name in ("karpathy_train.json", "v2_mscoco_train2014_annotations.json"):
        next(source.rglob(name)).unlink()
    splits, _ = prepared("vqa_v2", source, tmp_path / "out")
    assert comparable(splits) == comparable({s: i for s, i in whole.items() if s != "karpathy_train"})
    next(source.rglob("v2_mscoco_val2014_annotations.json")).unlink()
    with pytest.raises(EPALMError, match="v2_mscoco_val2014_annotations.json is not under"):
        prepared("vqa_v2", source, tmp_path / "out")


# What was not made


def test_splits_that_were_not_made_are_named_with_the_file_that_lacks(tmp_path):
    source = write_tiny("vqa_v2", tmp_path / "in")
    (source / "dataset_coco.json").unlink()
    splits, said = prepared("vqa_v2", source, tmp_path / "out")
    assert splits.keys() == {"train", "val"}
    assert (
        f"Not made: karpathy_train, karpathy_val, karpathy_test, because {source} lacks dataset_coco.json."
        in said
    )
    assert f"Not made: test, because {source} lacks v2_OpenEnded_mscoco_test2015_questions.json." in said
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["not_made"]["karpathy_val"] == "dataset_coco.json"
