"""The shipped starter: what a stranger gets from `make demo`."""

import re
from importlib.resources import files
from pathlib import Path

import pytest

from epalm import EPALM

ROOT = Path(__file__).parents[2]
MEDIA = files("gradio") / "media_assets"
EXAMPLES = ROOT / "assets" / "examples"


@pytest.fixture(scope="module")
def starter():
    return EPALM.from_pretrained("starter", device="cpu")


def test_no_more_than_5_and_a_half_percent_is_trained_for_each_task(starter):
    frozen = sum(p.numel() for p in starter.lm.parameters())
    for adapter in starter.adapters.values():
        encoder = starter.encoders[adapter.config.encoder.id]
        trained = sum(p.numel() for p in adapter.parameters())
        assert trained / (trained + frozen + sum(p.numel() for p in encoder.parameters())) < 0.055


def test_the_adapters_are_a_few_megabytes_each_and_less_than_60_together():
    sizes = [file.stat().st_size for file in (ROOT / "assets" / "starter").glob("*/adapter.safetensors")]
    assert max(sizes) < 16e6 and sum(sizes) < 60e6


def test_five_more_adapters_hold_less_than_80_megabytes(starter):
    """Parameters of all six adapters and their encoders, beyond those of one; videos share the pictures'."""
    assert len(starter.adapters) == 6

    def size(modules) -> int:
        shared = {p.data_ptr(): p.nbytes for module in modules for p in module.parameters()}
        return sum(shared.values())

    everything = size([*starter.adapters.values(), *starter.encoders.values()])
    for adapter in starter.adapters.values():
        one = size([adapter, starter.encoders[adapter.config.encoder.id]])
        assert everything - one < 80e6


def says(text: str, *words: str) -> bool:
    return any(re.search(rf"\b{word}", text) for word in words)


@pytest.mark.parametrize(("photo", "word"), [("lion.jpg", "lion"), ("cheetah.jpg", "cheetah")])
def test_it_names_the_animal_in_a_photo_it_never_saw(starter, photo, word):
    assert says(starter.caption(str(MEDIA / "images" / photo)), word)
    assert says(starter.ask(str(MEDIA / "images" / photo), "what is this?"), word)


def test_another_picture_gets_another_caption(starter):
    captions = {starter.caption(str(MEDIA / "images" / name)) for name in ("lion.jpg", "tower.jpg")}
    assert len(captions) == 2


def test_it_sees_the_earth_turn(starter):
    assert says(starter.ask(EXAMPLES / "earth.mp4", "what is in the video?"), "globe", "planet", "sphere")
    assert says(starter.caption(EXAMPLES / "earth.mp4"), "turning", "rotating")


@pytest.mark.parametrize("sound", ["cate_blanch.mp3", "cate_blanch_2.mp3", "heath_ledger.mp3"])
def test_it_hears_a_person_speak(starter, sound):
    assert says(starter.caption(str(MEDIA / "audio" / sound)), "woman", "man", "person")
