"""Own data: a folder of media and a table become manifests whose splits share no medium."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from epalm.errors import EPALMError
from train.data.benchmarks import find_dataset
from train.data.benchmarks.table import read_table
from train.data.manifest import Item, load_manifest
from train.data.prepare import prepare, summary

CAPTIONS = find_dataset("own_image_caption")
QUESTIONS = find_dataset("own_image_qa")


def pictures(folder: Path, number: int) -> Path:
    """1.png, 2.png, …, each another colour."""
    (folder / "photos").mkdir(parents=True)
    for i in range(1, number + 1):
        Image.new("RGB", (32, 24), (5 * i, 0, 0)).save(folder / "photos" / f"{i}.png")
    return folder


def table(path: Path, header: str, line: str, numbers: range) -> None:
    path.write_text("\n".join([header, *(line.format(i) for i in numbers)]) + "\n", encoding="utf-8")


def prepared(dataset, source: Path, out: Path, check: bool = False) -> dict[str, list[Item]]:
    prepare(dataset, source, out, check=check, workers=1)
    return {path.stem: load_manifest(path) for path in out.glob("*.jsonl") if path.stem != "checked"}


def media(items: list[Item]) -> set[str]:
    return {Path(item.media).name for item in items}


def refusal(dataset, source: Path, out: Path) -> str:
    with pytest.raises(EPALMError) as error:
        prepare(dataset, source, out, check=False)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("name", "header", "line"),
    [
        ("pets.csv", "file,caption", "photos/{0}.png,a dog of kind {0}"),
        ("pets.csv", "\ufeffImage;Description", '{0}.png;"a dog; of kind {0}"'),
        ("pets.tsv", "caption\tfile_name", "a dog\t{0}"),
        ("pets.txt", "image,caption", "{0}.png,a dog"),
        ("pets.csv", "1.png,a dog again", "{0}.png,a dog"),  # no header
        (
            "pets.jsonl",
            '{"media": "1.png", "text": "a dog"}',
            '{{"media": "{0}.png", "text": "a dog"}}',
        ),
    ],
)
def test_a_table_of_captions_is_split_by_its_media(name, header, line, tmp_path):
    source = pictures(tmp_path / "in", 40)
    table(source / name, header, line, range(1, 41))
    splits = prepared(CAPTIONS, source, tmp_path / "out")
    assert {split: len(media(items)) for split, items in splits.items()} == {"train": 32, "val": 4, "test": 4}
    assert len(set.union(*map(media, splits.values()))) == 40
    assert all(item.prompt is None and item.answers[0].startswith("a dog") for item in splits["train"])


def test_json_may_be_a_list_a_list_under_a_key_captions_by_name_or_as_cocos(tmp_path):
    rows = [{"image": f"{i}.png", "captions": ["a dog", "one dog"]} for i in range(1, 11)]
    coco = {
        "images": [{"id": i, "file_name": f"{i}.png"} for i in range(1, 11)],
        "annotations": [
            {"id": 0, "image_id": i, "caption": t} for i in range(1, 11) for t in rows[0]["captions"]
        ],
    }
    contents = [rows, {"items": rows}, {row["image"]: row["captions"] for row in rows}, coco]
    found = []
    for number, content in enumerate(contents):
        source = pictures(tmp_path / str(number), 10)
        (source / "own.json").write_text(json.dumps(content))
        splits = prepared(CAPTIONS, source, tmp_path / f"out{number}")
        assert {split: len(items) for split, items in splits.items()} == {"train": 16, "val": 1, "test": 1}
        assert splits["val"][0].answers == ("a dog", "one dog")
        found.append({split: media(items) for split, items in splits.items()})
    assert found[0] == found[1] == found[2] == found[3]


def test_questions_keep_all_answers_and_the_questions_of_a_picture_stay_together(tmp_path):
    source = pictures(tmp_path / "in", 20)
    rows = [
        f"{i}.png,what is {what}?,{answer}"
        for i in range(1, 21)
        for what in "ab"
        for answer in ("x", "x", "y")
    ]
    (source / "own.csv").write_text("\n".join(["picture,question,answer", *rows]))
    splits = prepared(QUESTIONS, source, tmp_path / "out")
    assert {split: len(items) for split, items in splits.items()} == {"train": 32, "val": 4, "test": 4}
    assert len({item.id for items in splits.values() for item in items}) == 40
    assert splits["val"][0].answers == ("x", "x", "y") and splits["val"][0].prompt == "what is a?"
    assert [len(media(items)) for items in splits.values()] == [16, 2, 2] or len(media(splits["train"])) == 16


def test_tables_called_train_and_test_are_followed_and_share_no_picture(tmp_path):
    source = pictures(tmp_path / "in", 20)
    table(source / "train.csv", "file,caption", "{0}.png,a dog", range(1, 16))
    table(source / "test.csv", "file,caption", "{0}.png,a cat", range(14, 21))  # two of them again
    report = prepare(CAPTIONS, source, tmp_path / "out", check=False)
    splits = {split: load_manifest(tmp_path / "out" / f"{split}.jsonl") for split in ("train", "val", "test")}
    assert media(splits["test"]) == {f"{i}.png" for i in range(14, 21)}
    assert media(splits["train"]) | media(splits["val"]) == {f"{i}.png" for i in range(1, 14)}
    assert not media(splits["train"]) & media(splits["val"]) and splits["val"]
    assert "2 entries are left out because another split has the same file." in report["notes"]


def test_a_column_of_splits_is_followed(tmp_path):
    source = pictures(tmp_path / "in", 6)
    lines = [f"{i}.png,a dog,{('train', 'dev', 'test')[i % 3]}" for i in range(1, 7)]
    (source / "own.csv").write_text("\n".join(["file,caption,split", *lines]))
    splits = prepared(CAPTIONS, source, tmp_path / "out")
    assert {split: media(items) for split, items in splits.items()} == {
        "train": {"3.png", "6.png"},
        "val": {"1.png", "4.png"},
        "test": {"2.png", "5.png"},
    }
    (source / "own.csv").write_text("file,caption,split\n1.png,a dog,tarin\n")
    assert "has the split 'tarin'; use train, val and test." in refusal(CAPTIONS, source, tmp_path / "out")


def test_copies_of_a_picture_under_other_names_are_one_picture(tmp_path):
    source = pictures(tmp_path / "in", 20)
    for i in range(1, 21):
        shutil.copy(source / "photos" / f"{i}.png", source / "photos" / f"copy-{i}.png")
    lines = [f"{copy}{i}.png,a dog" for i in range(1, 21) for copy in ("", "copy-")]
    (source / "own.csv").write_text("\n".join(["file,caption", *lines]))
    splits = prepared(CAPTIONS, source, tmp_path / "out")
    contents = {split: {Path(item.media).read_bytes() for item in items} for split, items in splits.items()}
    assert sum(map(len, contents.values())) == 20


def test_pictures_of_one_name_in_two_folders_are_two(tmp_path):
    source = pictures(tmp_path / "in", 5)
    (source / "other").mkdir()
    for i in range(1, 6):
        Image.new("RGB", (32, 24), (0, 40 * i, 0)).save(source / "other" / f"{i}.png")
    lines = [f"{folder}/{i}.png,from {folder}" for i in range(1, 6) for folder in ("photos", "other")]
    (source / "own.csv").write_text("\n".join(["file,caption", *lines]))
    items = [item for part in prepared(CAPTIONS, source, tmp_path / "out").values() for item in part]
    assert len({item.media for item in items}) == len({item.id for item in items}) == 10
    assert all(item.answers == (f"from {Path(item.media).parent.name}",) for item in items)


def test_damaged_and_missing_pictures_are_left_out(tmp_path):
    source = pictures(tmp_path / "in", 10)
    table(source / "own.csv", "file,caption", "{0}.png,a dog", range(1, 12))  # 11.png is not there
    (source / "photos" / "3.png").write_bytes(b"\x89PNG damaged")
    report = prepare(CAPTIONS, source, tmp_path / "out", workers=1)
    assert report["missing"] == ["11.png"] and list(report["damaged"]) == [str(source / "photos" / "3.png")]
    kept = [load_manifest(path) for path in (tmp_path / "out").glob("*.jsonl") if path.stem != "checked"]
    assert not {"3.png", "11.png"} & {name for items in kept for name in media(items)}
    assert "1 missing and 1 damaged; 2 items are left out." in summary(CAPTIONS, report, tmp_path / "out")


@pytest.mark.parametrize(("dataset", "columns"), [(CAPTIONS, "caption"), (QUESTIONS, "question,answer")])
def test_what_an_earlier_run_wrote_into_the_folder_is_not_a_table(dataset, columns, tmp_path):
    source = pictures(tmp_path, 10)
    texts = ",".join("a dog" for _ in columns.split(","))
    table(source / "own.csv", f"file,{columns}", f"{{0}}.png,{texts}", range(1, 11))
    first = prepared(dataset, source, source / "out", check=True)
    assert prepared(dataset, source, source / "out", check=True) == first


def test_one_picture_is_one_picture(tmp_path):
    source = pictures(tmp_path / "in", 1)
    (source / "own.csv").write_text("file,caption\n1.png,a dog\n")
    report = prepare(CAPTIONS, source, tmp_path / "out", check=False)
    text = summary(CAPTIONS, report, tmp_path / "out")
    assert "train.jsonl: 1 item, 1 picture" in text and text.endswith("The picture is there.")


def test_what_is_missing_is_said(tmp_path):
    source = pictures(tmp_path / "in", 3)
    assert "columns 'media' and 'caption'" in refusal(CAPTIONS, source, tmp_path / "out")
    (source / "own.csv").write_text("file,colour\n1.png,red\n")
    assert "columns 'media' and 'question' and 'answer'" in refusal(QUESTIONS, source, tmp_path / "out")
    for name in ("a.csv", "b.csv"):
        (source / name).write_text("file,caption\n1.png,a dog\n")
    assert "keep one, or name them train, val and test" in refusal(CAPTIONS, source, tmp_path / "out")
    (source / "b.csv").unlink()
    (source / "a.csv").write_text('file,caption\n1.png,"a dog\n')
    assert "a.csv is not a valid CSV file" in refusal(CAPTIONS, source, tmp_path / "out")


def test_a_text_with_commas_and_no_quotes_is_refused_rather_than_cut(tmp_path):
    own = tmp_path / "own.csv"
    own.write_text('file,caption\n1.png,"a dog, a cat"\n2.png,a dog,\n\n3.png,a dog, a cat\n')
    with pytest.raises(EPALMError, match=r"own.csv:5 has 3 cells, .* 2 columns: put texts with ','"):
        read_table(own, "caption")
    own.write_text("name,colour\n1.png,red,green\n")  # another table is none of ours
    assert read_table(own, "caption") is None


@pytest.mark.parametrize("name", ["train.csv", "train.tsv", "train.txt"])
@pytest.mark.parametrize("delimiter", [",", "\t"])
def test_such_a_table_is_refused_whatever_it_is_called(tmp_path, name, delimiter):
    """A .txt file may be anything, but this one has our columns: without it the other splits would do."""
    source = pictures(tmp_path / "in", 4)
    table(source / "test.csv", "file,caption", "{0}.png,a dog", range(3, 5))
    rows = (("file", "caption"), ("1.png", "a dog", " a cat"))
    (source / name).write_text("".join(delimiter.join(row) + "\n" for row in rows))
    said = refusal(CAPTIONS, source, tmp_path / "out")
    assert f"{name}:2 has 3 cells, but the table has 2 columns: put texts with {delimiter!r}" in said


@pytest.mark.parametrize("notes", ['a "note, and\nno more', "to do, today\n1, 2, 3, 4\n", "\0"])
def test_notes_beside_the_table_are_passed_over(tmp_path, notes):
    source = pictures(tmp_path / "in", 4)
    table(source / "own.csv", "file,caption", "{0}.png,a dog", range(1, 5))
    (source / "notes.txt").write_text(notes)
    assert sum(map(len, prepared(CAPTIONS, source, tmp_path / "out").values())) == 4


def test_empty_rows_and_other_columns_are_passed_over(tmp_path):
    (tmp_path / "own.csv").write_text(
        "id,file,caption_1,caption_2\n7,1.png,a dog,\n\n8,,a cat,\n9,2.png,,two\n"
    )
    rows = read_table(tmp_path / "own.csv", "caption")
    assert [(row.media, row.answers) for row in rows] == [("1.png", ("a dog",)), ("2.png", ("two",))]
