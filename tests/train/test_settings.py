"""A settings file: what is refused, and how numbers and words are read."""

from pathlib import Path

import pytest

from epalm import EPALMError
from epalm.encoders.widths import Widths
from tests.helpers.trainings import run
from train.settings import load_settings

EXAMPLE = Path(__file__).parents[2] / "train" / "configs" / "image" / "example.yaml"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("optim.lr=0", "optim.lr must be above 0"),
        ("evaluation.batch=0", "evaluation.batch must be at least 1"),
        ("evaluation.limit=-5", "evaluation.limit must be at least 1"),
        ("data.draws=-1", "data.draws must be at least 0"),
        ("data.workers=0", "data.workers must be at least 1"),
        ("model.prompt_length=-1", "model.prompt_length must be at least 0"),
        ("optim.warmup=15", "optim.warmup is 15, but it is a share of the steps"),
        ("optim.warmup=0.6", "at most 0.5"),
    ],
)
def test_numbers_out_of_range_are_refused_before_anything_is_loaded(gqa, change, said):
    with pytest.raises(EPALMError, match=said):
        load_settings(gqa, [change])


def test_a_deep_prompt_needs_a_prompt(gqa):
    with pytest.raises(EPALMError, match="model.prompt_deep_from needs a soft prompt"):
        load_settings(gqa, ["model.prompt_length=0", "model.prompt_deep_from=3"])


@pytest.mark.parametrize("metric", ["METEOR", "SPICE"])
def test_a_metric_that_needs_java_selects_no_epoch(metric):
    """Validation leaves these metrics out, so the training would end at the first one."""
    said = f"evaluation.metric is '{metric}', which .* starts Java: choose one of CIDEr, .*, ROUGE-L.$"
    with pytest.raises(EPALMError, match=said):
        load_settings(EXAMPLE, [f"evaluation.metric={metric}"])
    assert load_settings(EXAMPLE, ["evaluation.metric=BLEU-4"]).metric == "BLEU-4"


def test_an_unknown_setting_names_the_closest(gqa, capsys):
    assert run("fit", gqa, "--set", "optim.learning_rate=1") == 2
    assert "unknown key 'learning_rate'" in capsys.readouterr().err
    with pytest.raises(EPALMError, match="closest valid key is 'batch'"):
        load_settings(gqa, ["optim.bach=1"])


def test_a_value_of_another_type_is_refused(gqa):
    with pytest.raises(EPALMError, match="'epochs' must be of type int"):
        load_settings(gqa, ["optim.epochs=many"])


@pytest.mark.parametrize("value", ["[1", "{a: ", '"1', "*a", "2026-02-30", "\x00"])
def test_a_value_that_is_not_yaml_is_refused_with_its_override(gqa, value):
    with pytest.raises(EPALMError) as refusal:
        load_settings(gqa, [f"optim.lr={value}"])
    said = str(refusal.value)
    assert said.startswith(f"--set {f'optim.lr={value}'!r} is not valid YAML (") and "\n" not in said


@pytest.mark.parametrize(("text", "value"), [("2e-5", 2e-5), ("1.5E3", 1500.0), (".5", 0.5), ("3", 3.0)])
def test_numbers_are_numbers_with_an_exponent_too(gqa, text, value):
    assert load_settings(gqa, [f"optim.lr={text}"]).optim.lr == value


def test_no_is_a_word(gqa):
    assert load_settings(gqa, ["optim.precision=no"]).optim.precision == "no"


def test_negative_layers_count_from_the_last_layer_not_from_the_encoders_head():
    settings = load_settings(EXAMPLE)  # layers -3, -2, -2, -1 and -1
    widths = Widths([16, 24, 48, 120, 1280, 1000], layers=5)
    assert settings.encoder_config(widths).widths == (48, 120, 120, 1280, 1280)
