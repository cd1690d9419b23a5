"""One language model that sees, watches and listens: adapters of all three modalities in one model."""

import dataclasses
import json
import shutil
from importlib.resources import files

import pytest
import torch
from transformers import ASTConfig, ASTModel, TimesformerConfig, TimesformerModel

from app import page
from epalm import EPALM, EPALMError, Request
from epalm import audio as sounds
from epalm import video as videos
from epalm.adapter import Adapter
from epalm.cli import main
from epalm.config import AdapterConfig, EncoderConfig

MEDIA = files("gradio") / "media_assets"
WIDTH = 24


@pytest.fixture(scope="module")
def everything(tiny_model_dir, tmp_path_factory):
    """The tiny image adapters, and untrained ones over a tiny TimeSformer and a tiny AST."""
    root = tmp_path_factory.mktemp("everything")
    torch.manual_seed(0)
    sizes = {"hidden_size": WIDTH, "num_attention_heads": 4, "intermediate_size": 48, "num_hidden_layers": 3}
    TimesformerModel(TimesformerConfig(**sizes, image_size=32, num_frames=4)).save_pretrained(
        root / "timesformer"
    )
    ASTModel(ASTConfig(**sizes, max_length=96, num_mel_bins=48)).save_pretrained(root / "ast")
    video = dataclasses.replace(videos.RECIPES["epalm-video-8"], size=32, frames=4)
    audio = dataclasses.replace(sounds.RECIPES["epalm-audio-16k"], mel_bins=48, frames=96)

    folder = root / "model"
    shutil.copytree(tiny_model_dir, folder)
    names = json.loads((folder / "config.json").read_text())["adapters"]
    for modality, encoder, recipe in (("video", "timesformer", video), ("audio", "ast", audio)):
        for task in ("caption", "qa"):
            base = AdapterConfig.load(folder / f"image-{task}" / "config.json")
            config = dataclasses.replace(
                base,
                encoder=EncoderConfig(str(root / encoder), (-2, -1), (WIDTH, WIDTH)),
                task=dataclasses.replace(base.task, modality=modality),
                recipe=recipe.to_dict(),
            )
            Adapter(config).save(folder / f"{modality}-{task}")
            names.append(f"{modality}-{task}")
    (folder / "config.json").write_text(json.dumps({"adapters": names}))
    return folder


@pytest.fixture(scope="module")
def model(everything):
    return EPALM.from_pretrained(everything, device="cpu")


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


def test_the_command_line_takes_all_modalities_in_one_call(everything, capsys):
    media = [
        str(MEDIA / "images" / "lion.jpg"),
        str(MEDIA / "videos" / "a.mp4"),
        str(MEDIA / "audio" / "sax.wav"),
    ]
    assert main(["caption", *media, "--model", str(everything), "--json", "--device", "cpu"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["adapter"] for row in rows] == ["image-caption", "video-caption", "audio-caption"]


def test_the_page_refuses_a_model_that_it_cannot_show(everything):
    video = EPALM.from_pretrained(everything / "video-caption", device="cpu")
    with pytest.raises(EPALMError, match="this model is for video"):
        page(video, "x")
