"""EPALM as users call it: load, caption, ask, stream, save."""

import threading
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from epalm import EPALM, EPALMError, Request
from epalm.config import AdapterConfig, ConfidenceConfig

RED = Image.new("RGB", (40, 30), "red")
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 60, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def model(tiny_model_dir):
    return EPALM.from_pretrained(tiny_model_dir, device="cpu")


@pytest.fixture(scope="module")
def opt(tiny_opt_dir):
    return EPALM.from_pretrained(tiny_opt_dir, device="cpu")


def test_adapters_of_one_model_share_lm_and_encoder(model):
    assert sorted(model.adapters) == ["image-caption", "image-qa"]
    assert len(model.encoders) == 1


def test_only_the_adapters_have_trainable_parameters(model):
    trainable = {n.split(".")[0] for n, p in model.named_parameters() if p.requires_grad}
    assert trainable == {"adapters"}
    assert not any(p.requires_grad for e in model.encoders.values() for p in e.parameters())


@pytest.mark.parametrize("beams", [1, 3])
def test_a_batch_that_mixes_captions_and_questions_gives_each_request_its_own_text(model, beams):
    requests = [
        Request(RED),
        Request(NOISE, "what is this?"),
        Request(NOISE),
        Request(RED, "is it a very small and very red thing?"),
    ]
    together = model.generate(requests, beams=beams, max_new_tokens=6)
    assert together == [model.generate([r], beams=beams, max_new_tokens=6)[0] for r in requests]
    assert len(set(together)) > 1


@pytest.mark.parametrize("name", ["model", "opt"])
def test_cached_equals_uncached(name, request):
    model = request.getfixturevalue(name)
    for question in (None, "what is this?"):
        texts = [
            model.generate([Request(NOISE, question)], max_new_tokens=8, use_cache=cache)
            for cache in (True, False)
        ]
        assert texts[0] == texts[1]


def test_in_reference_mode_too_a_batch_gives_what_each_request_gets_alone(opt):
    requests = [Request(NOISE, q) for q in ("what is it", "what is the color of the cat", "where is it")]
    assert opt.generate(requests) == [opt.generate([r])[0] for r in requests]


def test_saved_equals_loaded(model, tmp_path):
    model.save_pretrained(tmp_path)
    again = EPALM.from_pretrained(tmp_path, device="cpu")
    assert sorted(again.adapters) == sorted(model.adapters)
    assert again.caption(NOISE) == model.caption(NOISE)
    assert again.ask(NOISE, "what is this?") == model.ask(NOISE, "what is this?")


def test_one_adapter_is_saved_as_a_plain_adapter_folder(model, tmp_path, tiny_model_dir):
    one = EPALM.from_pretrained(tiny_model_dir / "image-qa", device="cpu")
    one.save_pretrained(tmp_path)
    assert {"adapter.safetensors", "config.json", "README.md"} <= {p.name for p in tmp_path.iterdir()}
    assert EPALM.from_pretrained(tmp_path, device="cpu").ask(RED, "why?") == one.ask(RED, "why?")


@pytest.mark.parametrize("name", ["model", "opt"])
@pytest.mark.parametrize("beams", [1, 3])
def test_an_answer_is_the_generated_text_with_its_log_probability(name, beams, request):
    model = request.getfixturevalue(name)
    requests = [Request(NOISE, "what is this?"), Request(RED, "where is it?"), Request(NOISE), Request(RED)]
    answers = model.answers(requests, beams)
    assert [answer.text for answer in answers] == model.generate(requests, beams)
    for one, answer in zip(requests, answers, strict=True):
        assert answer.confidence is None  # these adapters were never measured
        assert model.answer(one, beams).log_probability == pytest.approx(answer.log_probability, abs=1e-4)
        assert answer.log_probability < 0


def test_a_calibrated_adapter_says_how_often_it_is_right(model, tmp_path):
    model.save_pretrained(tmp_path)
    path = tmp_path / "image-qa" / "config.json"
    config = AdapterConfig.load(path)
    path.write_text(replace(config, confidence=ConfidenceConfig(2.0, 1.0)).to_json())
    answer = EPALM.from_pretrained(tmp_path, device="cpu").answer(Request(NOISE, "what is this?"))
    assert answer.confidence == ConfidenceConfig(2.0, 1.0).of(answer.log_probability)
    assert 0 < answer.confidence < 1


def test_the_stream_grows_to_the_whole_text(model):
    parts = list(model.stream(Request(NOISE), max_new_tokens=8))
    assert len(parts) > 1
    assert parts[-1] == model.caption(NOISE, max_new_tokens=8)


def test_several_beams_are_streamed_once(model):
    parts = list(model.stream(Request(NOISE), beams=3, max_new_tokens=8))
    assert parts == [model.caption(NOISE, beams=3, max_new_tokens=8)]


def test_closing_a_stream_ends_its_work(model):
    before = threading.active_count()
    stream = model.stream(Request(NOISE), max_new_tokens=400)
    next(stream)
    stream.close()
    assert threading.active_count() == before


def test_an_unreadable_file_fails_before_anything_is_generated_and_the_next_request_works(model, tmp_path):
    (tmp_path / "text.jpg").write_text("no picture")
    with pytest.raises(EPALMError, match=r"text\.jpg"):
        list(model.stream(Request(tmp_path / "text.jpg")))
    assert model.caption(RED) is not None


def test_another_language_model_is_refused_naming_both(tiny_model_dir, tiny_opt_dir):
    other = EPALM.from_pretrained(tiny_opt_dir, device="cpu").adapters
    wrong = next(iter(other.values())).config.lm.id
    right = AdapterConfig.load(tiny_model_dir / "image-qa" / "config.json").lm.id
    said = rf"was trained for {right} \(type llama.*, but {wrong} is type opt"
    with pytest.raises(EPALMError, match=said):
        EPALM.from_pretrained(tiny_model_dir, device="cpu", lm=wrong)


def test_a_missing_task_says_what_there_is(tiny_model_dir):
    captions = EPALM.from_pretrained(tiny_model_dir / "image-caption", device="cpu")
    with pytest.raises(EPALMError, match="no adapter for image qa; it has: image caption"):
        captions.ask(RED, "what is this?")


def test_a_name_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(EPALMError, match="is not a model"):
        EPALM.from_pretrained(str(tmp_path / "nothing" / "here"), device="cpu")


@pytest.mark.parametrize("listed", ["[]", "5", '["a.b"]', '[{"name": "x"}]'])
def test_a_broken_list_of_adapters_is_refused(tmp_path, listed):
    (tmp_path / "config.json").write_text(f'{{"adapters": {listed}}}')
    with pytest.raises(EPALMError, match="must list its adapters"):
        EPALM.from_pretrained(tmp_path, device="cpu")
