"""The shipped starter: what a stranger gets from `make demo`."""

import re
from importlib.resources import files
from pathlib import Path

import pytest

from epalm import EPALM

ROOT = Path(__file__).parent.parent
IMAGES = files("gradio") / "media_assets" / "images"


@pytest.fixture(scope="module")
def starter():
    return EPALM.from_pretrained("starter", device="cpu")


def test_less_than_one_percent_is_trained_for_each_task(starter):
    frozen = sum(p.numel() for m in (starter.lm, *starter.encoders.values()) for p in m.parameters())
    for adapter in starter.adapters.values():
        trained = sum(p.numel() for p in adapter.parameters())
        assert trained / (trained + frozen) < 0.03


def test_the_adapters_are_a_few_megabytes_each():
    for file in (ROOT / "assets" / "starter").glob("*/adapter.safetensors"):
        assert file.stat().st_size < 10e6


@pytest.mark.parametrize(("photo", "word"), [("lion.jpg", "lion"), ("cheetah.jpg", "cheetah")])
def test_it_names_the_animal_in_a_photo_it_never_saw(starter, photo, word):
    assert re.search(rf"\b{word}", starter.caption(str(IMAGES / photo)))
    assert re.search(rf"\b{word}", starter.ask(str(IMAGES / photo), "what is this?"))


def test_another_picture_gets_another_caption(starter):
    assert starter.caption(str(IMAGES / "lion.jpg")) != starter.caption(str(IMAGES / "tower.jpg"))
