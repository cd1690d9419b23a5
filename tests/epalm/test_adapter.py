"""Adapter folders and the original's checkpoints: nothing loads that does not fit."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from epalm.adapter import Adapter
from epalm.config import (
    AdapterConfig,
    EncoderConfig,
    GenerationConfig,
    InjectionConfig,
    LMConfig,
    PromptConfig,
    TaskConfig,
    from_dict,
)
from epalm.errors import EPALMError
from epalm.hub.checkpoints import adapter_from_original, convert, read_original
from epalm.hub.zoo import find

GOLDEN = Path(__file__).parents[1] / "golden"


def config(**changes) -> AdapterConfig:
    base = AdapterConfig(
        lm=LMConfig("some/lm", 16, 12, 8, "opt"),
        encoder=EncoderConfig("some/encoder", (-2, -1), (6, 10)),
        injection=InjectionConfig(2, 7),
        prompt=PromptConfig(4, mlp=True),
        task=TaskConfig("caption", "image", ""),
        generation=GenerationConfig(),
        recipe={"name": "epalm"},
    )
    return dataclasses.replace(base, **changes)


SIDE_BY_SIDE = EncoderConfig("some/encoder", (-2, (-1, 2)), (6, 15))


@pytest.mark.parametrize(
    "changes", [{}, {"prompt": None}, {"prompt": PromptConfig(3, False)}, {"encoder": SIDE_BY_SIDE}]
)
def test_saved_equals_loaded(tmp_path, changes):
    adapter = Adapter(config(**changes))
    adapter.save(tmp_path)
    loaded = Adapter.load(tmp_path)
    assert loaded.config == adapter.config
    for name, tensor in adapter.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], tensor, rtol=0, atol=0)


def test_mean_features_are_stored_with_the_adapter_if_they_are_known(tmp_path):
    adapter = Adapter(config())
    assert adapter.mean_features is None
    adapter.mean_features = [torch.randn(6), torch.randn(10)]
    adapter.save(tmp_path)
    loaded = Adapter.load(tmp_path).mean_features
    assert [mean.tolist() for mean in loaded] == [mean.tolist() for mean in adapter.mean_features]
    with pytest.raises(ValueError, match="widths"):
        adapter.mean_features = [torch.randn(6), torch.randn(6)]
    state = load_file(tmp_path / "adapter.safetensors")
    del state["mean_feature_1"]
    save_file(state, tmp_path / "adapter.safetensors")
    with pytest.raises(EPALMError, match="mean_feature_1 should be"):
        Adapter.load(tmp_path)


def test_token_j_is_connector_j_of_feature_j():
    adapter = Adapter(config())
    features = [torch.randn(3, 6), torch.randn(3, 10)]
    tokens = adapter.tokens(features)
    assert tokens.shape == (3, 2, 16)
    torch.testing.assert_close(tokens[:, 1], adapter.connector[1](features[1]))


def test_a_shared_connector_maps_every_feature():
    shared = config(shared_connector=True, encoder=EncoderConfig("some/encoder", (-2, -1), (6, 6)))
    adapter = Adapter(shared)
    feature = torch.randn(3, 6)
    tokens = adapter.tokens([feature, feature])
    assert len(adapter.connector) == 1
    torch.testing.assert_close(tokens[:, 0], tokens[:, 1])


def test_a_connector_that_no_layer_reads_is_not_trained():
    adapter = Adapter(config(injection=InjectionConfig(2, 3)))  # one layer for two tokens
    assert [c.weight.requires_grad for c in adapter.connector] == [True, False]


def test_a_shared_connector_is_trained_as_long_as_any_layer_reads_any_token():
    encoder = EncoderConfig("some/encoder", (-3, -2, -1), (6, 6, 6))
    skips_the_first = InjectionConfig(5, 8, text_step=2)  # layer 6 reads token 1
    adapter = Adapter(config(encoder=encoder, injection=skips_the_first, shared_connector=True))
    assert adapter.connector[0].weight.requires_grad


def test_the_soft_prompt_lives_in_the_embedding_space():
    assert Adapter(config()).prompt().shape == (4, 12)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"shared_conector": True}, "unknown key 'shared_conector'.*'shared_connector'"),
        ({"injection": {"start_layer_idx": 1}}, "lacks the key 'end_layer_idx'"),
        ({"injection": {"start_layer_idx": 1, "end_layer_idx": 99}}, "1 to 99.*8 layers of some/lm"),
        ({"injection": {"start_layer_idx": 1, "end_layer_idx": 4, "mask": "open"}}, "'causal', 'reference'"),
        ({"shared_connector": "yes"}, "must be of type bool, but it is 'yes'"),
        ({"lm": 5}, "must be an object"),
        ({"generation": {"num_beams": 0}}, "generation.num_beams must be at least 1, but it is 0"),
        ({"generation": {"max_new_tokens": 0}}, "generation.max_new_tokens must be at least 1"),
        ({"prompt": {"length": -1, "mlp": False}}, "prompt.length must be at least 1"),
        (
            {"injection": {"start_layer_idx": 1, "end_layer_idx": 4, "text_step": 0}},
            "injection.text_step must be at least 1",
        ),
    ],
)
def test_a_wrong_config_is_refused_in_one_sentence(edit, message):
    data = json.loads(config().to_json()) | edit
    with pytest.raises(EPALMError, match=message):
        from_dict(AdapterConfig, data, "config.json")


def test_a_truncated_weight_file_is_refused(tmp_path):
    Adapter(config()).save(tmp_path)
    file = tmp_path / "adapter.safetensors"
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(EPALMError, match="is damaged"):
        Adapter.load(tmp_path)


def test_tensors_of_other_sizes_are_refused_naming_both(tmp_path):
    Adapter(config()).save(tmp_path)
    state = load_file(tmp_path / "adapter.safetensors")
    state["connector.1.weight"] = torch.zeros(16, 99)
    save_file(state, tmp_path / "adapter.safetensors")
    with pytest.raises(EPALMError, match=r"connector.1.weight should be \(16, 10\), but it is \(16, 99\)"):
        Adapter.load(tmp_path)


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(EPALMError, match="adapter.safetensors cannot be written"):
        Adapter(config()).save(tmp_path / "file")


def test_a_folder_without_an_adapter_is_refused(tmp_path):
    with pytest.raises(EPALMError, match="not an adapter folder"):
        Adapter.load(tmp_path)


def original_checkpoint(path: Path, shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    state = {name: torch.randn(shape) for name, shape in shapes.items()}
    torch.save({"model": state, "optimizer": {"state": {}}, "epoch": 7, "best_valid": 97.2}, path)
    return state


def test_an_original_checkpoint_becomes_an_adapter_folder(tmp_path):
    preset = find("coco-caption-opt-6.7b")
    state = original_checkpoint(tmp_path / "checkpoint_best.pth", preset.key_shapes)
    convert(tmp_path / "checkpoint_best.pth", tmp_path / "out", preset.name)
    adapter = Adapter.load(tmp_path / "out")
    assert adapter.config.injection == InjectionConfig(19, 31, mask="reference")
    assert (adapter.config.generation.max_length, adapter.config.generation.beam_scoring) == (30, "reference")
    torch.testing.assert_close(adapter.connector[0].weight, state["connector.0.weight"])
    torch.testing.assert_close(adapter.prompt(), state["prompt_module.prefix_embedding.0.weight"])


def test_a_checkpoint_of_another_recipe_is_refused_naming_both(tmp_path):
    original_checkpoint(tmp_path / "c.pth", {"connector.0.weight": (20, 30), "connector.0.bias": (20,)})
    with pytest.raises(EPALMError, match=r"facebook/opt-6.7b.*\(4096,\).*\(20,\)"):
        convert(tmp_path / "c.pth", tmp_path / "out", "vqa-opt-6.7b")
    assert not (tmp_path / "out").exists()


def test_a_pickle_with_code_is_never_executed(tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    torch.save({"model": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(EPALMError, match="never executed"):
        read_original(tmp_path / "evil.pth")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("content", [b"", b"hello, this is no checkpoint", b"PK\x03\x04 truncated zip"])
def test_a_damaged_checkpoint_is_refused(tmp_path, content):
    (tmp_path / "c.pth").write_bytes(content)
    with pytest.raises(EPALMError, match=r"c\.pth"):
        read_original(tmp_path / "c.pth")


def test_every_recorded_checkpoint_converts_and_survives_saving(tmp_path):
    for case in sorted(GOLDEN.glob("*_a")):
        from epalm.verify import _adapter_config

        state = read_original(case / "checkpoint.pth")
        recorded = _adapter_config(json.loads((case / "config.json").read_text()), state)
        adapter_from_original(state, recorded, str(case)).save(tmp_path / case.name)
        loaded = Adapter.load(tmp_path / case.name).state_dict()
        assert {k: v.tolist() for k, v in loaded.items()} == {k: v.tolist() for k, v in state.items()}
