"""A deep prompt: trained vectors are added to the prompt's rows before each of the last layers."""

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from epalm.adapter import Adapter, SoftPrompt
from epalm.config import GenerationConfig, PromptConfig
from epalm.decoding import InjectedLM, text_loss
from epalm.errors import EPALMError
from epalm.injection import deep_prompt
from epalm.training_pass import labelled_losses
from tests.epalm.test_adapter import config
from tests.helpers.tiny import LAYERS, VOCAB, WIDTH, injection, tiny_lm

LAYOUT = "one layer after the range, as published"  # layers 1 to 4 of 6
DEEP = 4  # layers 2 to 5
FAMILIES = ("llama", "opt")


def inputs(lm: InjectedLM, batch: int = 2, length: int = 4) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ids, mask, a deep prompt of three rows per text, perceptual tokens."""
    torch.manual_seed(1)
    ids = torch.randint(3, VOCAB, (batch, length))
    prompt = torch.randn(batch, 3, 1 + DEEP, lm.family.embed_size(lm.base))
    return ids, torch.ones_like(ids), prompt, torch.randn(batch, injection(LAYOUT, "causal")[1], WIDTH)


@pytest.mark.parametrize("with_token", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_the_plain_prompt_with_layers_that_add_to_its_rows(family, with_token):
    """The second implementation: hooks on the LM's layers, which know nothing of prompts."""
    lm, (where, _) = tiny_lm(family), injection(LAYOUT, "causal")
    ids, mask, prompt, tokens = inputs(lm)
    given = tokens if with_token else None
    ours = lm(ids, mask, prompt, given, where).logits

    rows, vectors = deep_prompt(prompt)
    first = int(with_token)  # row of the prompt's beginning
    for place, layer in enumerate(lm.family.layers(lm.base)):
        number = place - (LAYERS - DEEP)
        if number < 0:
            continue

        def add(_: nn.Module, args: tuple[Tensor, ...], number: int = number) -> tuple[Tensor, ...]:
            hidden = args[0].clone()
            hidden[:, first : first + 3] += vectors[:, :, number]
            return (hidden, *args[1:])

        layer.register_forward_pre_hook(add)
    theirs = lm(ids, mask, rows, given, where).logits
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_vectors_of_zero_change_nothing():
    lm, (where, _) = tiny_lm("llama"), injection(LAYOUT, "causal")
    ids, mask, prompt, tokens = inputs(lm)
    prompt[:, :, 1:] = 0
    flat = lm(ids, mask, prompt[:, :, 0], tokens, where).logits
    assert torch.equal(lm(ids, mask, prompt, tokens, where).logits, flat)


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_cached_decoding_is_uncached_decoding(family, beams, same):
    """Also where the prompt is the same for all, so that it is computed once below the first token."""
    lm, (where, _) = tiny_lm(family), injection(LAYOUT, "causal")
    ids, mask, prompt, tokens = inputs(lm)
    if same:
        prompt = prompt[:1].expand(2, -1, -1, -1)
    args = (ids, mask, prompt, tokens, where, GenerationConfig(beams, max_new_tokens=8))
    cached, uncached = (lm.decode(*args, use_cache=cache).tolist() for cache in (True, False))
    assert cached == uncached
    flat = lm.decode(ids, mask, prompt[:, :, 0], *args[3:]).tolist()
    assert cached != flat


def test_losses_and_gradients_of_a_training_step_are_those_of_the_plain_pass():
    lm, (where, count) = tiny_lm("llama"), injection(LAYOUT, "causal")
    torch.manual_seed(0)
    ids = torch.randint(3, VOCAB, (4, 7))
    ids[:, :3] = torch.tensor([5, 6, 7])
    labels = ids.clone()
    labels[:, :3] = -100
    prompt = torch.randn(3, 1 + DEEP, WIDTH, requires_grad=True)
    tokens = torch.randn(4, count, WIDTH)
    mask = torch.ones_like(ids)

    plain = text_loss(lm(ids, mask, prompt.expand(4, -1, -1, -1), tokens, where).logits, labels)
    losses = labelled_losses(lm, prompt, tokens, where, ids, mask, labels)
    torch.testing.assert_close(losses, plain, rtol=1e-4, atol=1e-5)
    [expected], [found] = (torch.autograd.grad(each.sum(), prompt) for each in (plain, losses))
    assert (expected.flatten(2).abs().amax((0, 2)) > 0).all()  # every layer's vectors learn
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())


def test_an_adapter_keeps_it_and_counts_it_in_units_of_each_layer(tmp_path):
    wide = dataclasses.replace(config().lm, embed_size=16)
    adapter = Adapter(config(lm=wide, prompt=PromptConfig(4, mlp=False, deep_from=3)))
    assert adapter.prompt is not None and adapter.prompt.deep is not None
    assert adapter.prompt.deep.shape == (5, 4, 16)  # layers 3 to 7 of 8
    adapter.prompt.deep.data.normal_()
    adapter.prompt.deep_unit = torch.arange(1.0, 6.0)
    adapter.save(tmp_path)
    loaded = Adapter.load(tmp_path)
    assert loaded.prompt is not None and torch.equal(loaded.prompt(), adapter.prompt())
    rows, vectors = deep_prompt(loaded.prompt()[None])
    assert torch.equal(rows[0], adapter.prompt.embedding.weight)
    assert torch.equal(vectors[0, :, 2], 3 * adapter.prompt.deep[2])


def test_a_new_one_adds_nothing():
    prompt = SoftPrompt(3, WIDTH, mlp=False, deep=DEEP)
    assert torch.equal(prompt()[:, 0], prompt.embedding.weight)
    assert not prompt()[:, 1:].any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"deep_from": 1}, "must be a layer from 2, where the perceptual token enters, to 7, but it is 1"),
        ({"deep_from": 8}, "to 7, but it is 8"),
        ({"mask": "reference"}, "needs the mask mode causal"),
        ({"embed_size": 12}, "those of some/lm have 12 and 16 numbers"),
    ],
)
def test_where_it_cannot_be_is_said(changes, message):
    base = config()
    lm = dataclasses.replace(base.lm, embed_size=changes.get("embed_size", 16))
    where = dataclasses.replace(base.injection, mask=changes.get("mask", "causal"))
    with pytest.raises(EPALMError, match=message):
        config(lm=lm, injection=where, prompt=PromptConfig(4, False, changes.get("deep_from", 3)))
