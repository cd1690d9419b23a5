"""`make example`: the data set that ships, and the settings it is trained with."""

import dataclasses
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers import AutoTokenizer

from epalm import EPALMError
from epalm.hub.wheels import backbone_dir
from train.data.benchmarks import find_dataset
from train.data.example import BACKGROUNDS, COLOURS, FOLDER, THINGS, scenes, write
from train.data.manifest import Item, load_manifest
from train.scores import score
from train.settings import load_settings

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "train" / "configs" / "image" / "example.yaml"
SPLITS = ("train", "val", "test")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("example")
    write(folder)
    return folder


def test_it_ships_as_the_script_makes_it(made):
    for split in SPLITS:
        assert (FOLDER / f"{split}.jsonl").read_text() == (made / f"{split}.jsonl").read_text()
    shipped = sorted(path.name for path in (FOLDER / "pictures").iterdir())
    assert shipped == sorted(path.name for path in (made / "pictures").iterdir())
    for name in shipped:
        pictures = [Image.open(folder / "pictures" / name) for folder in (FOLDER, made)]
        ours, again = (np.asarray(picture, dtype=float) for picture in pictures)
        assert ours.shape == (160, 160, 3)
        assert abs(ours - again).mean() < 1  # of 255: encoders of JPEG differ in the last bits
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) < 1.5e6


def test_every_item_has_its_picture_and_one_caption():
    items = {split: load_manifest(FOLDER / f"{split}.jsonl") for split in SPLITS}
    assert {split: len(part) for split, part in items.items()} == {"train": 320, "val": 40, "test": 60}
    assert len({item.media for part in items.values() for item in part}) == 420
    thing, ground, colour = ("|".join(words) for words in (THINGS, BACKGROUNDS, COLOURS))
    form = re.compile(rf"(a|two|three) ({colour}) ({thing})s? on an? ({ground}) background")
    for item in items["test"]:
        assert Path(item.media).is_file() and item.prompt is None
        [caption] = item.answers
        assert form.fullmatch(caption)


def test_what_is_held_out_was_trained_in_parts_alone():
    parts = {split: [dataclasses.asdict(scene) for scene in found] for split, found in scenes().items()}

    def combined(split: str, *keys: str) -> set[tuple]:
        return {tuple(scene[key] for key in keys) for scene in parts[split]}

    whole = ("thing", "background", "count")
    assert not combined("train", *whole) & (combined("val", *whole) | combined("test", *whole))
    assert not combined("val", *whole) & combined("test", *whole)
    for pair in (("thing", "background"), ("thing", "count"), ("thing", "colour"), ("background", "count")):
        assert combined("test", *pair) <= combined("train", *pair)
    assert set(Counter(scene["thing"] for scene in parts["test"]).values()) == {6}


def test_its_settings():
    settings = load_settings(CONFIG)
    tokenizer = AutoTokenizer.from_pretrained(backbone_dir(settings.model.lm))
    assert len(tokenizer(settings.model.prompt_text)["input_ids"]) == settings.model.prompt_length
    assert [Path(settings.data.train), Path(settings.data.val), Path(settings.data.test)] == [
        (FOLDER / f"{split}.jsonl").relative_to(ROOT) for split in SPLITS
    ]


def test_make_example_is_what_its_settings_say():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    target = makefile.split("\nexample:")[1].split("\n\n")[0]
    commands = re.findall(r"\$\(PY\) -m (train .*)", target)
    header = re.findall(r"^#   python -m (train .*)", CONFIG.read_text(encoding="utf-8"), re.MULTILINE)
    assert [command.split()[1] for command in header] == ["features", "fit", "evaluate", "report"]
    assert commands == header


# Own data


@pytest.mark.parametrize("modality", ["image", "video", "audio"])
def test_own_data_needs_no_benchmark(modality):
    captions, questions = find_dataset(f"own_{modality}_caption"), find_dataset(f"own_{modality}_qa")
    assert (captions.task, captions.modality, captions.metrics[0]) == ("caption", modality, "CIDEr")
    assert (questions.task, questions.modality, questions.metrics) == ("qa", modality, ("exact match",))


def test_an_answer_is_right_if_anybody_gave_it():
    items = [Item("1", "a.jpg", "what?", ("cat", "kitten")), Item("2", "b.jpg", "what?", ("dog",))]
    scores = score(find_dataset("own_image_qa"), items, {"1": "kitten", "2": "cow"}, java=False)
    assert scores.metrics == {"exact match": 0.5}
    assert scores.of("exact match") == {"1": 1.0, "2": 0.0}


def test_own_data_of_another_kind_is_refused():
    with pytest.raises(EPALMError, match="own_audio_caption is audio caption, but .* image caption"):
        load_settings(CONFIG, ["data.dataset=own_audio_caption"])
    with pytest.raises(EPALMError, match="did you mean own_image_caption"):
        load_settings(CONFIG, ["data.dataset=own_image_captions"])
