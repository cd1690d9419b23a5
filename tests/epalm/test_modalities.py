"""One language model that sees, watches and listens: adapters of all three modalities in one model."""

import json
import shutil
from importlib.resources import files

import pytest

from epalm import EPALM, EPALMError, Request
from epalm.cli.main import main

MEDIA = files("gradio") / "media_assets"


@pytest.fixture(scope="module")
def model(tiny_senses_dir):
    return EPALM.from_pretrained(tiny_senses_dir, device="cpu")


def test_six_adapters_share_one_language_model_and_three_encoders(model):
    assert len(model.adapters) == 6
    assert len(model.encoders) == 3


def test_one_call_mixes_tasks_and_modalities_and_gives_each_what_it_gets_alone(model):
    image, video = MEDIA / "images" / "lion.jpg", MEDIA / "videos" / "a.mp4"
    sound = MEDIA / "audio" / "sax.wav"
    requests = [Request(m, q) for m in (str(image), str(video), str(sound)) for q in (None, "what is this?")]
    together = model.generate(requests, max_new_tokens=6)
    assert together == [model.generate([r], max_new_tokens=6)[0] for r in requests]


def test_the_adapter_is_chosen_by_what_the_file_is_not_by_its_name(model, tmp_path):
    disguised = shutil.copy(str(MEDIA / "videos" / "a.mp4"), tmp_path / "photo.jpg")
    assert model.caption(disguised) == model.generate([Request(disguised, adapter="video-caption")])[0]


def test_a_model_without_video_says_so(tiny_model_dir):
    images = EPALM.from_pretrained(tiny_model_dir, device="cpu")
    with pytest.raises(EPALMError, match="no adapter for video caption"):
        images.caption(str(MEDIA / "videos" / "a.mp4"))


def test_the_command_line_takes_all_modalities_in_one_call(tiny_senses_dir, capsys):
    media = [
        str(MEDIA / "images" / "lion.jpg"),
        str(MEDIA / "videos" / "a.mp4"),
        str(MEDIA / "audio" / "sax.wav"),
    ]
    assert main(["caption", *media, "--model", str(tiny_senses_dir), "--json", "--device", "cpu"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["adapter"] for row in rows] == ["image-caption", "video-caption", "audio-caption"]
