"""An adapter's linear maps begin as what words would have left in the language model."""

import pytest
import torch

from epalm.adapter import Adapter
from epalm.config import (
    AdapterConfig,
    EncoderConfig,
    GenerationConfig,
    InjectionConfig,
    LMConfig,
    TaskConfig,
)
from tests.helpers.tiny import LAYERS, VOCAB, WIDTH, tiny_lm
from train.starter.closed_form import (
    OTHERS,
    entry_layers,
    last_states,
    ridge,
    start_by_classes,
    start_by_regression,
)

SENTENCES = ("rain", "a dog", "a cat")


def letters(text: str) -> dict[str, list[int]]:
    return {"input_ids": [ord(letter) % VOCAB for letter in text]}


@pytest.fixture
def adapter() -> Adapter:
    """Two tokens of width 5 that enter layers 1 and 3."""
    return Adapter(
        AdapterConfig(
            lm=LMConfig("tiny", WIDTH, WIDTH, LAYERS, "llama"),
            encoder=EncoderConfig("some", (0, 1), (5, 5)),
            injection=InjectionConfig(1, 5),
            prompt=None,
            task=TaskConfig("caption", "audio", "You can hear"),
            generation=GenerationConfig(),
            recipe={},
        )
    )


def test_a_token_enters_where_the_schedule_first_reads_it(adapter):
    assert entry_layers(adapter) == {0: 1, 1: 3}


def test_states_are_what_enters_a_layer_at_the_last_token():
    lm, ids = tiny_lm("llama"), torch.tensor([letters("a dog")["input_ids"]])
    seen = []
    handle = lm.base.model.layers[3].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    lm.base(ids)
    handle.remove()
    states = last_states(lm, letters, SENTENCES, [3])
    torch.testing.assert_close(states[3][1], seen[0][0, -1])


def test_without_penalty_the_regression_finds_the_map_that_made_the_targets():
    torch.manual_seed(0)
    features, weight = torch.randn(50, 5), torch.randn(3, 5)
    found = ridge(features, features @ weight.T, torch.ones(50), penalty=1e-7)
    torch.testing.assert_close(found, weight, atol=1e-4, rtol=0)
    assert ridge(features, features @ weight.T, torch.ones(50), penalty=10).norm() < weight.norm()


def test_an_example_gives_nearly_the_state_that_its_sentence_leaves(adapter):
    lm, examples = tiny_lm("llama"), torch.eye(5)[[0, 1, 2]].repeat(20, 1)
    shown = list(SENTENCES) * 20
    start_by_regression(adapter, lm, letters, [examples] * 2, shown, torch.ones(60))
    states = last_states(lm, letters, SENTENCES, [1, 3])
    tokens = adapter.tokens([torch.eye(5)[:3]] * 2)  # (3, 2, H)
    for j, layer in enumerate((1, 3)):
        nearest = torch.cdist(tokens[:, j], states[layer]).argmin(1)
        assert nearest.tolist() == [0, 1, 2]


def test_a_class_column_is_its_states_difference_from_the_mean(adapter):
    lm, before = tiny_lm("llama"), adapter.connector[1].weight.detach().clone()
    start_by_classes(adapter, lm, letters, SENTENCES, {0: slice(3)}, unit=0.05)
    states = last_states(lm, letters, SENTENCES, [1])[1]
    certain = torch.tensor([[0.0, 20.0, 0.0, 0.0, 0.0]])  # a probability of 1, in units of 0.05
    torch.testing.assert_close(adapter.tokens([certain, certain])[0, 0], states[1], atol=1e-4, rtol=1e-4)
    assert torch.equal(adapter.connector[1].weight, before)  # this token reads no probabilities
    assert adapter.connector[0].weight[:, 3:].abs().max() <= OTHERS * 5**-0.5
