"""`python -m train starter-report`: scores beside guesses, with intervals, and failures at random."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from epalm import EPALM
from tests.helpers.trainings import run
from train.data.manifest import Item
from train.starter.naming import named, named_or_kind, names
from train.starter.pictures.public import Photo
from train.starter.pictures.questions import classifier_classes
from train.starter.report import images, sounds
from train.starter.report.baselines import nearest, probe, usual_answers
from train.starter.report.dictionary import dictionary_lines, invented, words_of
from train.starter.report.features import PART, Opener, tokens
from train.starter.report.images import another, cider, naming_rows, nearest_answers
from train.starter.report.layers import kept_tokens
from train.starter.report.table import SHOWN, Row, Said, lines_of
from train.starter.sounds.kinds import Sound

CLASSES = classifier_classes()
TENCH, GOLDFISH = CLASSES[:2]


# What counts as right


def test_a_kind_is_right_as_a_word_and_a_name_anywhere():
    assert named("two tenches", TENCH) and not named("a fish", TENCH)
    assert named_or_kind("a fish in the water", TENCH) and not named_or_kind("a fishing boat", TENCH)
    assert names("three dogs", ["dog"]) and not names("a hotdog", ["dog"])


def test_another_item_is_far_away():
    assert another(6) == [3, 4, 5, 0, 1, 2] and another(1) == [0]


def test_cider_is_highest_where_the_words_are_peoples():
    people = [["a dog runs on the grass"], ["a man rides a bike"], ["two girls play ball"]]
    exact = cider([captions[0] + "." for captions in people], people)
    assert min(exact) > max(cider(["a man rides a bike", "two girls play ball", "a dog runs"], people))


# Guesses


def test_the_nearest_is_the_one_in_the_same_direction():
    train = torch.tensor([[0.0, 1.0], [1.0, 0.0], [-1.0, -1.0]])
    assert nearest(train, torch.tensor([[2.0, 0.1], [0.0, 3.0]]).half()) == [1, 0]


def test_a_probe_tells_classes_apart_that_a_line_separates():
    torch.manual_seed(0)
    labels = ["rain", "dog"] * 20
    train = torch.randn(40, 100)
    train[::2, :30] += 2
    test = torch.randn(10, 100)
    test[::2, :30] += 2
    assert probe(train, labels, test) == ["rain", "dog"] * 5


def test_usual_answers_are_those_of_the_same_question():
    usual, most = usual_answers(["how many?", "how many?", "how many?", "what?"], ["2", "1", "2", "lamp"])
    assert usual == {"how many?": "2", "what?": "lamp"} and most == "2"


def test_the_nearest_answer_is_to_the_same_question():
    def item(media: str, question: str, answer: str) -> Item:
        return Item(media + question, media, question, (answer,))

    train = [item("a", "what?", "lamp"), item("b", "what?", "desk"), item("b", "how many?", "3")]
    test = [item("c", "what?", "?"), item("c", "how many?", "?"), item("c", "where?", "?")]
    pooled = [torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.9, 0.1]])]
    assert nearest_answers(train, test, pooled, ["a", "b"], ["c"], {}, "2") == ["lamp", "3", "2"]


# Rows


def test_a_row_has_means_with_intervals_and_what_is_not_known_stays_empty():
    row = Row("names", [1.0] * 30 + [0.0] * 10, known=[1.0] * 40, known_by="head")
    cells = [cell.strip() for cell in row.line().strip("|").split("|")]
    assert cells[:2] == ["names", "40"] and cells[2].startswith("75.0 % (")
    low, high = cells[2].split("(")[1].rstrip(")").split("–")
    assert 50 < int(low) < 75 < int(high) < 95
    assert cells[3:] == ["", "100.0 % (100–100) head", ""]


def test_failures_are_drawn_the_same_way_every_time():
    said = [Said(f"{i}.jpg", "a dog", f"a cat | {i}") for i in range(40)]
    row = Row("names", [float(i % 2) for i in range(40)], said=said)
    shown = row.failures()
    assert len(shown) == SHOWN and shown == row.failures()
    assert all(int(line.split("/")[1].split(" ")[1]) % 2 == 0 for line in shown)
    assert lines_of([row])[-2] == shown[-1] and lines_of([Row("x", [1.0])])[-1] == ""


def test_captions_of_classes_are_compared_with_head_and_neighbour():
    photos = [Photo(Path(f"{i}.jpg"), "test", label=i) for i in (0, 1)]
    probabilities = torch.eye(1000)[[0, 2]]
    near = [Photo(Path("n.jpg"), "train", label=1)] * 2
    name, kind = naming_rows("caption", ["a tench", "a boat"], photos, probabilities, near)
    assert (name.right, name.blind, name.known, name.near) == ([1, 0], [0, 0], [1, 0], [0, 1])
    assert kind.right == [1, 0] and kind.near == [TENCH.kind == GOLDFISH.kind, 1]
    assert [said.file for said in name.said] == ["0.jpg", "1.jpg"]


def test_yes_and_no_are_asked_equally_often_about_sounds(monkeypatch):
    def sound(label: str) -> Sound:
        return Sound("x.wav", "esc10", label, f"a {label}", [label], "animal", None, "g")

    heard: list[list[str]] = []

    def say(model, adapter, features, rows, questions):
        heard.append(list(questions))
        return ["Yes"] * len(questions)

    monkeypatch.setattr(sounds, "say", say)
    both = [sound("rooster"), sound("helicopter")]
    row = sounds.yes_or_no_row(None, "ESC-10: x", both, [], ["rooster", "rooster"], ["cat", "helicopter"])
    assert heard[0] == [
        "is this a rooster?", "is this a helicopter?", "is this a helicopter?", "is this a rooster?"
    ]  # fmt: skip
    assert row.right == [1, 0, 1, 0] and row.known == [1, 1, 0, 0] and row.near == [0, 1, 1, 1]


# Words


def test_words_are_taken_apart():
    assert words_of("A man's hi-hat isn't blue.") == ["a", "man", "hi", "hat", "isn", "blue"]


def test_an_invented_word_is_found_and_told():
    dictionary = frozenset(["a", "tailed", "frog"])
    assert invented(["a tailed frog", "a malejay"], dictionary) == [[], ["malejay"]]
    line, _ = dictionary_lines(["a tailed frog", "a malejay"], [], dictionary)
    assert "Of these 2 captions 1 (50.0 %)" in line and line.endswith("malejay.")
    line, _ = dictionary_lines(["a frog"], ["a frgo", "a frog"], dictionary)
    assert "1 captions 0 (0.0 %)" in line and line.endswith(
        "Of 2 human captions of the same photos 50.0 % have one."
    )


# Features


class Recipe:
    """Opens a picture and counts how often."""

    opened = 0

    def open(self, path: Path) -> Image.Image:
        self.opened += 1
        return Image.open(path)

    def __call__(self, picture: Image.Image) -> torch.Tensor:
        return torch.tensor(picture.getpixel((0, 0))).float()

    def to_dict(self) -> dict:
        return {"name": "first pixel"}


class Encoder:
    widths = (3, 1)

    def __call__(self, media: torch.Tensor, layers: range) -> list[torch.Tensor]:
        return [media, media.sum(1, keepdim=True)][: len(layers)]


def test_features_are_encoded_once_and_go_on_where_they_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr("train.starter.report.features.PART", 2)
    paths = []
    for i in range(5):
        paths.append(str(tmp_path / f"{i}.png"))
        Image.new("RGB", (4, 4), (i, 0, 1)).save(paths[-1])
    recipe = Recipe()
    opener = Opener(Encoder(), recipe, tmp_path / "kept", "image")
    first = opener.features("set", paths)
    assert first[1].flatten().tolist() == [1, 2, 3, 4, 5] and recipe.opened == 5
    next((tmp_path / "kept").glob("set-*/00002.safetensors")).unlink()
    again = opener.features("set", paths)
    assert torch.equal(again[0], first[0]) and recipe.opened == 7
    opener.features("set", paths[:2])  # another list is another set
    assert recipe.opened == 9 and PART > 2


def test_a_medium_may_be_made_instead_of_opened(tmp_path):
    opener = Opener(Encoder(), Recipe(), tmp_path, "image")
    made = opener.features("made", ["a", "b"], lambda i: Image.new("RGB", (2, 2), (10 * i, 0, 0)))
    assert made[0][:, 0].tolist() == [0, 10]


# Layers


def test_tokens_are_taken_away_one_by_one_and_from_both_ends():
    assert kept_tokens(["4–9", "10–15", "16–21"]) == {
        "everything": [0, 1, 2],
        "nothing": [],
        "4–9 alone": [0],
        "10–15 alone": [1],
        "16–21 alone": [2],
        "up to 15": [0, 1],
        "from 10 on": [1, 2],
    }


def test_a_token_that_is_taken_away_is_that_of_the_mean_feature():
    model = EPALM.from_pretrained("starter", device="cpu")
    encoder = model.encoders["starter/efficientnet-lite2"]
    features = [torch.rand(3, width) for width in encoder.widths]
    whole = tokens(model, "image-caption", features, [2, 0])
    part = tokens(model, "image-caption", features, [2, 0], kept=[1])
    means = model.adapted["image-caption"].adapter.mean_features
    for j, (own, left) in enumerate(zip(whole, part, strict=True)):
        assert torch.equal(left, own if j == 1 else means[j].float().expand_as(own))


# The command


def test_layers_are_measured_on_photos_of_classes(tmp_path, capsys):
    page, folder = tmp_path / "page.md", tmp_path / "sets"
    folder.mkdir()
    given = ("--data", folder, "--work", tmp_path, "--layers", page)
    assert run("starter-report", *given) == 2
    assert "it needs the folder photos800" in capsys.readouterr().err and not page.exists()


def test_a_missing_folder_of_sets_is_told(tmp_path, capsys):
    assert run("starter-report", "--data", tmp_path / "none", "--work", tmp_path) == 2
    assert "give the folder of the public sets with --data" in capsys.readouterr().err


def test_what_no_folder_has_is_left_out(tmp_path, capsys):
    assert images.photo_rows(None, tmp_path, None) == ([], [])
    assert images.scene_rows(None, tmp_path, None) == ([], [])
    assert images.room_rows(None, tmp_path, None) == []
    assert sounds.sound_rows(None, tmp_path, None) == ([], [])


@pytest.mark.parametrize("hard", [True, False])
def test_the_wrong_name_is_never_right(hard, monkeypatch):
    photos = [Photo(Path(f"{i}.jpg"), "test", label=i) for i in (0, 1, 2)]
    features = [torch.eye(1000)[:3] for _ in range(7)]  # the head is right about all
    monkeypatch.setattr(images, "say", lambda model, adapter, features, rows, questions: ["no"] * len(rows))
    row = images.yes_or_no_rows(None, "image-qa", photos, features, photos)[int(hard)]
    assert row.right == [0, 1] * 3 and row.known == row.near == [1, 1] * 3
    assert len({(said.file, said.wanted) for said in row.said}) == 6
