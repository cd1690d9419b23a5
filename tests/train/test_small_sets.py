"""Flickr8k, DAQUAR, ESC-10, ESC-50 and UrbanSound8K in the layouts that people download."""

import json
from pathlib import Path

import pytest

from epalm.errors import EPALMError
from tests.helpers import tiny_small as tiny
from train.data.benchmarks import find_dataset
from train.data.benchmarks.base import place
from train.data.benchmarks.urbansound8k import CLASSES
from train.data.manifest import Item, load_manifest
from train.data.prepare import prepare, summary
from train.metrics.exact import set_match


def prepared(name: str, source: Path, out: Path) -> dict[str, list[Item]]:
    """The manifests, by split."""
    prepare(find_dataset(name), source, out, check=False)
    paths = [path for path in out.glob("*.jsonl") if path.stem != "checked"]
    return {path.stem: load_manifest(path) for path in paths}


def media(items: list[Item]) -> set[str]:
    return {Path(item.media).stem for item in items}


def sizes(splits: dict[str, list[Item]]) -> dict[str, int]:
    return {split: len(items) for split, items in splits.items()}


@pytest.mark.parametrize("name", tiny.SMALL)
def test_every_medium_opens_and_is_in_one_split(name, tmp_path):
    source = tiny.SMALL[name](tmp_path / "in")
    report = prepare(find_dataset(name), source, tmp_path / "out", workers=2)
    assert not report["missing"] and not report["damaged"] and not report["not_made"]
    splits = {split: load_manifest(tmp_path / "out" / f"{split}.jsonl") for split in ("train", "val", "test")}
    for one in splits:
        for other in splits.keys() - {one}:
            assert not media(splits[one]) & media(splits[other])


# Flickr8k


def test_flickr8k_has_the_authors_split(tmp_path):
    splits = prepared("flickr8k", tiny.write_flickr8k(tmp_path / "in"), tmp_path / "out")
    assert sizes(splits) == {"train": 8 * 5, "val": 6, "test": 6}
    first = splits["val"][0]
    assert (first.id, first.prompt, len(first.answers)) == (tiny.photo(8).removesuffix(".jpg"), None, 5)
    assert first.answers[0] == "a red , bar ."


def test_a_copy_of_flickr8k_is_split_by_the_photos_names(tmp_path):
    splits = prepared("flickr8k", tiny.write_flickr8k(tmp_path / "in", kaggle=True), tmp_path / "out")
    photos = {split: media(items) for split, items in splits.items()}
    assert sum(map(len, photos.values())) == 20 and photos.keys() == {"train", "val", "test"}
    assert photos["test"] == {name for part in photos.values() for name in part if place(name) < 1 / 8}
    assert "a red , bar ." in {text for items in splits.values() for item in items for text in item.answers}


def test_the_lists_also_split_a_copy_and_a_part_of_them_makes_a_part(tmp_path):
    source = tiny.write_flickr8k(tmp_path / "in", kaggle=True)
    tiny.write_lines(source / "Flickr_8k.testImages.txt", map(tiny.photo, range(5)))
    dataset = find_dataset("flickr8k")
    report = prepare(dataset, source, tmp_path / "out", check=False)
    assert report["splits"].keys() == {"test"} and report["splits"]["test"]["items"] == 5
    text = summary(dataset, report, tmp_path / "out")
    assert f"Not made: train, because {source} lacks Flickr_8k.trainImages.txt." in text


def test_karpathys_file_of_flickr8k_will_do(tmp_path):
    tiny.write_flickr8k(tmp_path / "in" / "all")
    for path in (tmp_path / "in").rglob("*.txt"):
        path.unlink()
    images = [
        {"filename": tiny.photo(number), "split": split, "sentences": [{"raw": "a dog"}]}
        for number, split in enumerate(("train", "val", "test"))
    ]
    (tmp_path / "in" / "dataset_flickr8k.json").write_text(json.dumps({"images": images}))
    splits = prepared("flickr8k", tmp_path / "in", tmp_path / "out")
    assert sizes(splits) == {"train": 1, "val": 1, "test": 1}


# DAQUAR


@pytest.mark.parametrize("official", [True, False])
def test_daquar_has_the_authors_test_photos_and_a_tenth_of_the_others_for_validation(official, tmp_path):
    splits = prepared("daquar", tiny.write_daquar(tmp_path / "in", official), tmp_path / "out")
    assert media(splits["test"]) == {f"image{number}" for number in range(41, 61)}
    assert {item.id for item in splits["train"] + splits["val"]} == {i.id for i in splits["trainval"]}
    assert media(splits["val"]) == {f"image{n}" for n in range(1, 41) if place(f"image{n}") < 0.1}
    assert ("37_test" in splits) == official


def test_the_photo_is_not_in_the_question_and_an_answer_is_in_plain_words(tmp_path):
    splits = prepared("daquar", tiny.write_daquar(tmp_path / "in"), tmp_path / "out")
    items = {Path(item.media).stem: item for item in splits["trainval"]}
    assert (items["image1"].prompt, items["image1"].answers) == (
        "what is on the left side of the table?",
        ("garbage bin",),
    )
    assert items["image2"].prompt == "what are the things on the bed?"
    assert items["image2"].answers == ("pillow, tape dispenser",)
    assert items["image3"].prompt == "how many lamps are there?"
    assert [items[f"image{n}"].group["answer_type"] for n in (1, 2, 3)] == ["thing", "things", "number"]


@pytest.mark.parametrize(
    ("prediction", "answer", "expected"),
    [
        ("pillow, lamp", "lamp, pillow", 1.0),  # in any order
        (" Lamp and a pillow.", "lamp, pillow", 1.0),
        ("pillow, pillow, lamp", "lamp, pillow", 1.0),
        ("lamp", "lamp, pillow", 0.0),  # not all of them
        ("lamp, pillow, bed", "lamp, pillow", 0.0),  # and nothing else
        ("two", "2", 1.0),
        ("garbage_bin", "garbage bin", 1.0),
        ("", "lamp", 0.0),
    ],
)
def test_an_answer_of_several_things_is_a_set(prediction, answer, expected):
    assert set_match(prediction, [answer]) == expected


def test_pairs_that_do_not_belong_together_are_refused(tmp_path):
    source = tiny.write_daquar(tmp_path / "in")
    path = source / "qa.894.raw.train.txt"
    path.write_text(path.read_text() + "what is this in the image3 ?\n")
    with pytest.raises(EPALMError, match="81 lines, but questions and answers must alternate"):
        prepared("daquar", source, tmp_path / "out")
    path.write_text("what is this?\nlamp\n")
    with pytest.raises(EPALMError, match=r"train\.txt:1 names no photo"):
        prepared("daquar", source, tmp_path / "out")


# Sounds


@pytest.mark.parametrize(
    ("name", "write", "held_out", "val", "classes"),
    [
        ("esc10", tiny.write_esc10, 5, 4, {"dog bark", "rain", "sea waves", "baby cry"}),
        ("esc10", tiny.write_esc50, 5, 4, {"dog bark", "rain", "baby cry"}),
        ("esc50", tiny.write_esc50, 5, 4, {"dog", "rain", "vacuum cleaner", "crying baby"}),
    ],
)
def test_a_fold_of_esc_is_held_out(name, write, held_out, val, classes, tmp_path):
    splits = prepared(name, write(tmp_path / "in"), tmp_path / "out")
    folds = {split: {int(clip[0]) for clip in media(items)} for split, items in splits.items()}
    assert folds == {"train": {1, 2, 3}, "val": {val}, "test": {held_out}}
    assert {item.answers for item in splits["test"]} == {(label,) for label in classes}
    assert {item.prompt for items in splits.values() for item in items} == {"what do you hear?"}
    assert splits["test"][0].group == {"class": splits["test"][0].answers[0]}


@pytest.mark.parametrize("table", [True, False])
def test_fold_10_of_urbansound8k_is_held_out_with_and_without_the_table(table, tmp_path):
    splits = prepared("urbansound8k", tiny.write_urbansound8k(tmp_path / "in", table), tmp_path / "out")
    folds = {
        split: {int(Path(item.media).parent.name.removeprefix("fold")) for item in items}
        for split, items in splits.items()
    }
    assert folds == {"train": set(range(1, 9)), "val": {9}, "test": {10}}
    assert {item.answers[0] for item in splits["test"]} == {"air conditioner", "dog bark", "siren"}
    assert len(CLASSES) == 10


def test_of_some_folds_the_last_is_for_validation_and_the_missing_test_is_said(tmp_path):
    source = tiny.write_esc10(tmp_path / "in")
    for path in source.rglob("5-*"):
        path.unlink()
    dataset = find_dataset("esc10")
    report = prepare(dataset, source, tmp_path / "out", check=False)
    assert {split: part["items"] for split, part in report["splits"].items()} == {"train": 12, "val": 4}
    assert f"Not made: test, because {source} lacks the clips of fold 5." in summary(
        dataset, report, tmp_path
    )


def test_a_table_with_another_kind_of_fold_is_refused(tmp_path):
    source = tiny.write_esc50(tmp_path / "in")
    table = source / "meta" / "esc50.csv"
    table.write_text(table.read_text().replace(",1,", ",one,", 1))
    with pytest.raises(EPALMError, match="is in fold 'one', but folds must be numbers"):
        prepared("esc50", source, tmp_path / "out")
