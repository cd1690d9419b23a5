"""Public photos and composed pictures: their views, their features, and what is asked about them."""

import json
import random
from collections import Counter
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw, ImageStat
from safetensors.torch import load_file, save_file

from train.starter.examples import IS_IT, KIND, WHAT
from train.starter.pictures import composed, photos
from train.starter.pictures.colours import main_colour
from train.starter.pictures.composed import SIDE, compose, countable, encode_composed, plan_composed
from train.starter.pictures.features import STORED
from train.starter.pictures.photos import encode_photos, plan_photos, random_view, read_photos
from train.starter.pictures.questions import (
    NUMBERS,
    about_colour,
    about_composed,
    about_room,
    alike,
    classifier_classes,
    is_right,
    naming,
    plural,
    yes_or_no,
)
from train.starter.split import split_pictures

CLASSES = classifier_classes()
CLASS_OF = {thing.noun: i for i, thing in enumerate(CLASSES)}


class Colours(torch.nn.Module):
    """An encoder whose every feature is the picture's mean colour."""

    def forward(self, pixels: torch.Tensor, layers) -> list[torch.Tensor]:
        return [pixels.mean((2, 3)) for _ in layers]


@pytest.fixture(autouse=True)
def encoder(monkeypatch):
    for module in (photos, composed):
        monkeypatch.setattr(module, "load_encoder", lambda *_, **__: Colours())


# Photos


@pytest.fixture
def public(tmp_path) -> Path:
    """A training room with two questions, and one of the test list."""
    folder = tmp_path / "public" / "daquar"
    folder.mkdir(parents=True)
    for number, colour in ((1, "red"), (2, "blue")):
        Image.new("RGB", (64, 48), colour).save(folder / f"image{number}.png")
    pairs = ["what is on the table in the image1 ?", "lamp", "how many chairs are there in the image1 ?", "2"]
    pairs += ["what is red in the image2 ?", "towel"]
    (folder / "all_qa_pairs.txt").write_text("\n".join(pairs) + "\n")
    (folder / "train_images_list.txt").write_text("image1\n")
    (folder / "test_images_list.txt").write_text("image2\n")
    return folder.parent


def test_sets_without_a_folder_are_named(tmp_path, capsys):
    assert plan_photos(tmp_path) == plan_photos(None) == []
    told = capsys.readouterr().out
    assert all(name in told for name in ("flickr8k", "photos800", "daquar"))


def test_rooms_of_the_test_list_are_never_looked_at(public):
    (row,) = plan_photos(public)
    assert (Path(row["photo"]).name, row["kind"], row["split"]) == ("image1.png", "room", "train")
    assert row["questions"] == [["what is on the table?", "lamp"], ["how many chairs are there?", "2"]]


def test_photos_are_encoded_with_their_views(public, tmp_path):
    assert read_photos(tmp_path) == []
    encode_photos(tmp_path, public)
    (row,) = read_photos(tmp_path)
    tensors = load_file(tmp_path / "photo-features.safetensors")
    assert set(tensors) == {f"layer{i}" for i in STORED}
    red = tensors["layer4"]
    assert red.shape == (row["views"], 3) == (4, 3) and red.dtype == torch.float16
    assert (red[:, 0] > red[:, 1]).all()  # of all views
    assert not torch.equal(red[0], red[1])


def test_without_photos_there_is_nothing_to_read(tmp_path):
    encode_photos(tmp_path, None)
    assert read_photos(tmp_path) == [] and not (tmp_path / "photo-features.safetensors").exists()


def halves(kind: str) -> set[bool]:
    """Whether the left half stays the darker one in views of a photo."""
    photo, rng = Image.linear_gradient("L").rotate(90).convert("RGB"), random.Random(0)
    darker = set()
    for _ in range(40):
        view = random_view(photo, kind, rng).convert("L")
        left, right = view.crop((0, 0, 5, 9)), view.crop((view.width - 5, 0, view.width, 9))
        darker.add(ImageStat.Stat(left).mean[0] < ImageStat.Stat(right).mean[0])
    return darker


def test_rooms_are_never_mirrored():
    assert len(halves("room")) == 1
    assert halves("scene") == halves("class") == {True, False}


def test_a_view_shows_most_of_a_room():
    photo, rng = Image.new("RGB", (200, 100)), random.Random(0)
    for _ in range(50):
        view = random_view(photo, "room", rng)
        assert 0.6 < view.width * view.height / 20_000 <= 1


# Composed pictures


def solid(colour: str) -> Image.Image:
    return Image.new("RGBA", (40, 40), colour)


@pytest.mark.parametrize("number", range(1, 7))
def test_as_many_things_are_there_as_the_line_says(number):
    row = {"way": "count", "number": number}
    picture = compose(row, [solid("red")], Image.new("RGB", (SIDE, SIDE), "white"), random.Random(number))
    grid = 2 if number <= 4 else 3
    centres = [(x + 0.5) * SIDE / grid for x in range(grid)]
    seen = [picture.getpixel((int(x), int(y))) == (255, 0, 0) for x in centres for y in centres]
    assert sum(seen) == number


@pytest.mark.parametrize("way", ["across", "down"])
def test_the_first_of_two_things_is_on_the_left_or_above(way):
    white = Image.new("RGB", (SIDE, SIDE), "white")
    picture = compose({"way": way}, [solid("red"), solid("blue")], white, random.Random(0))
    first, second = (
        {picture.getpixel((q, p) if way == "across" else (p, q)) for p in range(0, SIDE, 4)}
        for q in (65, 195)
    )
    assert (255, 0, 0) in first and (0, 0, 255) in second
    assert (0, 0, 255) not in first and (255, 0, 0) not in second


def test_pairs_are_of_different_things_and_counts_go_from_one_to_six():
    rows = plan_composed({1: "cat", 4: "cat", 9: "dog"}, made=200)
    assert {row["number"] for row in rows if row["way"] == "count"} == set(range(1, 7))
    pairs = [row for row in rows if row["way"] != "count"]
    assert len(pairs) == 100 and all(len(set(row["labels"])) == 2 for row in pairs)
    assert plan_composed({1: "cat"}, made=10) == []


def test_only_training_cut_outs_that_can_be_counted_are_composed(tmp_path, monkeypatch):
    monkeypatch.setattr(composed, "is_cut_out", lambda *_: True)
    monkeypatch.setattr(composed, "MADE", 6)
    rows = []
    for label, split in (("cat", "train"), ("dog", "train"), ("bread", "train"), ("cup", "test")):
        solid("red").save(tmp_path / f"{label}.png")
        row = {"path": f"{label}.png", "label": label, "category": "toy"}
        rows.append(row | {"split": split, "is_photo": False})
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    encode_composed(tmp_path)
    made = [json.loads(line) for line in (tmp_path / "composed.jsonl").read_text().splitlines()]
    assert {label for row in made for label in row["labels"]} == {"cat", "dog"}
    assert not countable("bread") and countable("cat")


# Questions


@pytest.mark.parametrize(
    ("paint", "name"),
    [
        ("red", "red"), ("#a01010", "red"), ("#ff9999", "pink"), ("orange", "orange"), ("#7a4a1a", "brown"),
        ("yellow", "yellow"), ("green", "green"), ("#2040c0", "blue"), ("#8030b0", "purple"),
        ("hotpink", "pink"), ("black", "black"), ("white", "white"), ("gray", "gray"),
    ],
)  # fmt: skip
def test_a_cut_out_has_the_colour_that_people_name(paint, name):
    assert main_colour(solid(paint)) == name


def test_what_is_colourful_or_hardly_there_has_no_colour():
    flag = solid("red")
    flag.paste("blue", (0, 0, 20, 40))
    assert main_colour(flag) is None
    assert main_colour(Image.new("RGBA", (40, 40))) is None


def test_the_split_notes_the_colours_of_cut_outs(tmp_path):
    rows, framed = [], Image.new("RGBA", (60, 90))
    ImageDraw.Draw(framed).ellipse([5, 30, 55, 80], fill="blue")
    for name, picture in (("ball", framed), ("wall", solid("red"))):
        picture.save(tmp_path / f"{name}.png")
        rows.append({"path": f"{name}.png", "label": name, "source": "made", "is_photo": False})
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    save_file({"layer4": torch.eye(2)[:, None].half()}, tmp_path / "features.safetensors")
    split_pictures(tmp_path)
    found = [json.loads(line) for line in (tmp_path / "manifest.jsonl").read_text().splitlines()]
    assert [row["colour"] for row in found] == ["blue", None]
    assert {row["split"] for row in found} <= {"train", "test"}


def test_colours_are_asked_for_in_both_spellings():
    asked = dict(about_colour("car", "blue", random.Random(seed)) for seed in range(60))
    assert {"what colour is the car?", "what color is it?"} < set(asked) and set(asked.values()) == {"blue"}


def test_answers_about_composed_pictures_are_right():
    rng = random.Random(0)
    count = {"way": "count", "labels": ["box"], "number": 3}
    for _ in range(100):
        question, answer = about_composed(count, rng)
        assert answer == ("three boxes" if question in WHAT else NUMBERS[3])
    pair = {"way": "across", "labels": ["cat", "dog"]}
    asked = dict(about_composed(pair, rng) for _ in range(300))
    assert asked == {
        "what is on the left?": "a cat",
        "what is on the right?": "a dog",
        "where is the cat?": "on the left",
        "where is the dog?": "on the right",
        "is the cat to the left of the dog?": "yes",
        "is the cat to the right of the dog?": "no",
        "is the dog to the left of the cat?": "no",
        "is the dog to the right of the cat?": "yes",
    }


@pytest.mark.parametrize(
    ("noun", "many"),
    [("cat", "cats"), ("box", "boxes"), ("toy", "toys"), ("berry", "berries"), ("old man", "old men")],
)
def test_plurals(noun, many):
    assert plural(noun) == many


def test_questions_about_rooms_keep_their_answer():
    rng = random.Random(0)
    asked = {about_room("what is on the table?", "lamp", rng) for _ in range(20)}
    assert asked == {("what is on the table?", "lamp"), ("what is on the table in the image?", "lamp")}
    assert {about_room("what is red in the photo?", "cup", rng)[0] for _ in range(20)} == {
        "what is red in the photo?"
    }


def test_a_class_is_called_by_its_name_and_kind():
    assert CLASSES[CLASS_OF["tench"]].full_name == "a tench, a kind of fish"
    assert CLASSES[CLASS_OF["goldfish"]].full_name == "a goldfish"


@pytest.mark.parametrize("noun", ["tench", "goldfish", "beagle", "great white shark"])
def test_yes_is_right_as_often_as_no_and_no_is_said_of_hard_ones(noun):
    rng, number = random.Random(0), CLASS_OF[noun]
    thing, similar = CLASSES[number], alike(CLASSES)[number]
    likely = [CLASSES[c] for c in (7, 8, number)]
    asked = [yes_or_no(thing, CLASSES, similar, likely, rng) for _ in range(2000)]
    answers = Counter(answer for _, answer in asked)
    assert answers["yes"] / 2000 == pytest.approx(0.5, abs=0.04)
    own = [q.format(thing=name) for q in IS_IT for name in thing.names]
    assert all((question in own) == (answer == "yes") for question, answer in asked)
    hard = sum("rooster" in question or "hen?" in question for question, answer in asked if answer == "no")
    assert hard / answers["no"] > 0.2


def test_no_is_never_said_of_a_kind_or_a_part_of_the_name():
    beagle = CLASSES[CLASS_OF["beagle"]]
    assert is_right("dog", beagle) and is_right("Beagle", beagle) and not is_right("basset", beagle)


def test_things_are_named_or_their_kind():
    rng, thing = random.Random(0), CLASSES[CLASS_OF["tench"]]
    for question, answer in (naming(thing, rng) for _ in range(200)):
        assert answer == ("a fish" if question in KIND else "a tench")
