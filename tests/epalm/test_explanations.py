"""`EPALM.explain` and the page of `epalm explain`, for pictures, videos and sounds."""

import json
import re
import shutil
from importlib.resources import files

import numpy as np
import pytest
import torch
from PIL import Image

from epalm import EPALM, EPALMError, Request
from epalm.cli.main import main
from epalm.decoding import InjectedLM
from epalm.explain.drawing import attention_maps, heat_map, layer_names, luminance, shade, spotlights
from epalm.explain.explain import shown
from epalm.explain.page import as_fragment, as_page
from epalm.explain.where import Looked
from epalm.media.audio import Sound

MEDIA = files("gradio") / "media_assets"
FILES = {
    "image": MEDIA / "images" / "lion.jpg",
    "video": MEDIA / "videos" / "a.mp4",
    "audio": MEDIA / "audio" / "sax.wav",
}
FRAMES = {"image": 1, "video": 4, "audio": 1}


@pytest.fixture(scope="module")
def model(tiny_senses_dir):
    return EPALM.from_pretrained(tiny_senses_dir, device="cpu")


@pytest.fixture(scope="module")
def explanations(model):
    return {modality: model.explain(Request(str(path))) for modality, path in FILES.items()}


@pytest.mark.parametrize("modality", FILES)
def test_what_is_explained_is_the_answer_that_the_model_gives(model, explanations, modality):
    found = explanations[modality]
    assert found.modality == modality and found.question is None
    assert found.text == model.caption(str(FILES[modality]))
    assert " ".join(found.words) == " ".join(found.text.split())
    assert found.contributions.shape == (len(found.layers), len(found.words))
    assert found.log_probabilities.shape == (len(found.words),)
    assert bool((found.log_probabilities < 0).all())
    assert found.blind == found.blind.strip()


@pytest.mark.parametrize("modality", FILES)
def test_there_is_a_map_for_every_picture_that_the_encoder_saw(explanations, modality):
    found = explanations[modality]
    assert len(found.pictures) == len(found.relevance) == FRAMES[modality]
    assert np.isfinite(found.relevance).all() and np.abs(found.relevance).max() > 0
    lit = spotlights(found)
    assert [picture.size for picture in lit] == [picture.size for picture in found.pictures]
    if modality == "image":  # this encoder has no [CLS]
        assert found.attention is None and attention_maps(found) is None
    else:
        assert found.attention.shape == found.relevance.shape
        assert len(attention_maps(found)) == FRAMES[modality]
    frame, x, y = found.peak()
    assert 0 <= frame < FRAMES[modality] and 0 < x < 1 and 0 < y < 1


def test_the_beam_searchs_texts_come_best_first(model, explanations):
    found = explanations["image"].candidates
    assert len(found) == 3
    assert found[0].text == model.caption(str(FILES["image"]), beams=3)
    assert all(candidate.log_probability < 0 for candidate in found)
    assert model.explain(Request(str(FILES["image"])), candidates=0).candidates == ()


def test_no_text_is_decoded_past_the_adapters_own_end_token(model, tiny_model_dir, tmp_path, monkeypatch):
    decode, rows = InjectedLM.decode, []

    def recorded(self, ids, *args, **options):
        out = decode(self, ids, *args, **options)
        rows.append(out[0, ids.shape[1] :].tolist())
        return out

    monkeypatch.setattr(InjectedLM, "decode", recorded)
    image, tokenizer = str(FILES["image"]), model.adapted["image-caption"].text.tokenizer
    model.caption(image)
    start = rows.pop()[:2]
    shutil.copytree(tiny_model_dir / "image-caption", tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    values = json.loads(config.read_text())
    values["task"]["end_token"] = tokenizer.convert_ids_to_tokens(start[1])
    config.write_text(json.dumps(values))
    EPALM.from_pretrained(tmp_path / "model", device="cpu").explain(Request(image), candidates=0)
    assert rows[0] == start  # of eight tokens that it may have


def test_candidates_differ_and_end_where_an_answer_ends(model):
    """Beams that end in the same text count once, and none goes on after its end."""
    found = model.explain(Request(str(FILES["image"]), "what is this?"), candidates=4).candidates
    texts = [candidate.text for candidate in found]
    assert len(set(texts)) == len(texts) > 1
    assert texts[0] in model.generate([Request(str(FILES["image"]), "what is this?")], beams=4)


def test_a_token_of_the_mean_feature_contributes_nothing(model, tmp_path):
    request = Request(str(FILES["image"]), "what is this?")
    assert model.explain(request).replaced_by == "neutral"
    model.save_pretrained(tmp_path)
    again = EPALM.from_pretrained(tmp_path, device="cpu")
    adapter = again.adapters["image-qa"]
    encoder, recipe = again.encoders[adapter.config.encoder.id], again.recipes["image-qa"]
    features = encoder(recipe(recipe.open(request.media))[None], adapter.config.encoder.feature_layers)
    adapter.mean_features = [feature[0] for feature in features]
    found = again.explain(request)
    assert found.replaced_by == "mean"
    assert np.count_nonzero(found.contributions) == 0
    adapter.mean_features = [feature[0] + 1 for feature in features]
    assert np.count_nonzero(again.explain(request).contributions)


def test_the_same_map_lies_the_right_way_round_on_a_spectrogram(model):
    rate = 16000
    high = torch.sin(torch.arange(rate) * 2 * torch.pi * 6000 / rate)
    recipe = model.recipes["audio-caption"]
    bands = torch.zeros(1, 4, 10)
    bands[0, 3, 0] = 1.0  # the highest pitch, at the start
    pictures, relevance, _ = shown("audio", recipe, Sound(high[None], rate), Looked(bands, None))
    assert relevance[0, 0, 0] == 1.0
    bright = np.asarray(pictures[0].convert("L"), dtype=float)[:200]
    assert bright[:100].mean() > bright[100:].mean()  # the tone of 6000 hertz is in the upper half


@pytest.mark.parametrize("modality", FILES)
def test_a_page_holds_all_that_it_shows(explanations, modality):
    page = as_page(explanations[modality], FILES[modality].name)
    assert page.startswith("<!doctype html>") and FILES[modality].name in page
    sources = re.findall(r'src="([^"]*)"', page)
    attended = FRAMES[modality] if modality != "image" else 0
    assert len(sources) == FRAMES[modality] + attended
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    assert "http" not in page and "<script" not in page
    assert "<html" not in as_fragment(explanations[modality])


def test_a_page_shows_markup_in_a_question_or_a_name_as_text(model):
    picture = Image.new("RGB", (40, 30), "red")
    page = as_page(model.explain(Request(picture, "<b>what</b> is this?")), "<script>.jpg")
    assert "&lt;b&gt;what&lt;/b&gt;" in page and "<script>" not in page


def test_the_table_can_be_drawn(explanations):
    found = explanations["video"]
    image = heat_map(found)
    assert image.width > 100 and image.height > 34 * len(found.layers)
    assert layer_names([(), (3,), (4, 5, 6)]) == ["no layer", "layer 3", "layers 4 to 6"]


def test_the_command_writes_the_page_and_prints_the_answer(
    tiny_model_dir, tmp_path, model, capsys, monkeypatch
):
    picture = tmp_path / "red.png"
    Image.new("RGB", (40, 30), "red").save(picture)
    out = tmp_path / "why.html"
    arguments = ["explain", str(picture), "--model", str(tiny_model_dir)]
    arguments.insert(2, "what is this?")
    assert main([*arguments, "--out", str(out)]) == 0
    printed, told = capsys.readouterr()
    assert printed.strip() == " ".join(model.ask(picture, "what is this?").split())
    assert f"Wrote {out}." in told and "what is this?" in out.read_text()
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 0 and (tmp_path / "red.png.html").exists()
    assert main([*arguments, "--out", str(tmp_path / "no" / "folder.html")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_a_bad_file_is_refused_in_one_sentence(model, tmp_path):
    (tmp_path / "text.jpg").write_text("no picture")
    with pytest.raises(EPALMError, match=r"text\.jpg"):
        model.explain(Request(str(tmp_path / "text.jpg")))


@pytest.mark.parametrize("value", np.linspace(-1, 1, 41))
def test_the_number_in_a_cell_stands_out_from_its_colour(value):
    ground, ink = (luminance(*colour) for colour in shade(float(value), np.array([1.0])))
    assert (max(ground, ink) + 0.05) / (min(ground, ink) + 0.05) >= 4.5  # as WCAG asks
