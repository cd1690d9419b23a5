"""Frozen linear layers on a CPU: another layout gives the same texts, int8 gives nearly the same numbers."""

import pytest
import torch
from torch import nn

from epalm import EPALM, EPALMError
from epalm.config import GenerationConfig
from epalm.cpu import FrozenLinear, pack, pack_for_training, quantise
from tests.helpers.tiny import INJECTIONS, WIDTH, injection, tiny_lm

# Text ids and rows of the soft prompt: with and without something before the last token.
INPUTS = [
    (torch.tensor([[5, 6, 7], [8, 9, 3]]), 3),
    (torch.tensor([[2], [2]]), 3),
    (torch.tensor([[2], [5]]), 0),
    (torch.tensor([[2, 4], [5, 8]]), 0),
]


def layers() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(96, 200), nn.ReLU(), nn.Linear(200, 50, bias=False)).requires_grad_(False)


@pytest.mark.parametrize("rows", [(1,), (3,), (2, 7), (2, 100)])
def test_packed_layers_compute_the_same(rows):
    plain, packed = layers(), layers()
    pack(packed)
    assert all(layer.product for layer in packed if isinstance(layer, nn.Linear))
    x = torch.randn(*rows, 96)
    with torch.no_grad():
        torch.testing.assert_close(packed(x), plain(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(("wide", "narrow"), [(256, 768), (768, 256), (512, 512), (96, 200)])
def test_one_row_is_multiplied_on_all_threads(threads, wide, narrow, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    torch.manual_seed(0)
    packed = nn.Sequential(nn.Linear(wide, narrow), nn.Linear(wide, narrow, bias=False)).requires_grad_(False)
    pack(packed)
    for layer in packed:
        layer.product = None
        for shape in ((wide,), (1, wide), (1, 1, wide)):
            x = torch.randn(*shape)
            with torch.no_grad():
                found, right = layer(x), nn.functional.linear(x, layer.weight, layer.bias)
            torch.testing.assert_close(found, right, atol=1e-5, rtol=1e-5)


def test_gradients_flow_through_the_plain_weights():
    plain, packed = layers(), layers()
    pack(packed)
    gradients = []
    for model in (plain, packed):
        x = torch.linspace(-1, 1, 96).requires_grad_()
        model(x).square().sum().backward()
        gradients.append(x.grad)
    assert torch.equal(*gradients)


def test_another_precision_unpacks():
    packed = layers()
    pack(packed)
    x = torch.randn(3, 96, dtype=torch.float64)
    with torch.no_grad():
        assert torch.equal(packed.double()(x), layers().double()(x))


@pytest.mark.parametrize("rows", [(3,), (2, 7), (2, 100)])
def test_packed_for_training_gradients_are_the_same_too(rows):
    plain, packed = layers(), layers()
    pack_for_training(packed)
    assert all(layer.backward_product for layer in packed if isinstance(layer, nn.Linear))
    outputs, gradients = [], []
    for model in (plain, packed):
        x = torch.linspace(-1, 1, 96).expand(*rows, 96).contiguous().requires_grad_()
        outputs.append(model(x))
        outputs[-1].square().sum().backward()
        gradients.append(x.grad)
    torch.testing.assert_close(*outputs, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-5)


def test_training_computes_the_same_before_and_after_something_was_decoded():
    plain, packed = layers(), layers()
    pack(packed)
    x = torch.randn(7, 96)  # nothing below it is trained
    assert torch.equal(packed(x), plain(x))


def test_int8_is_near_the_exact_product_and_keeps_the_weights():
    plain, rounded = layers(), layers()
    quantise(rounded)
    x = torch.randn(5, 96)
    with torch.no_grad():
        assert 0 < (rounded(x) - plain(x)).norm() / plain(x).norm() < 0.02
    assert torch.equal(rounded[0].weight, plain[0].weight)


def test_int8_for_steps_alone_leaves_passes_over_several_positions_exact():
    plain, rounded = layers(), layers()
    quantise(rounded, steps_only=True)
    x = torch.randn(2, 7, 96)
    with torch.no_grad():
        assert torch.equal(rounded(x), plain(x))
        assert 0 < (rounded(x[:, :1]) - plain(x[:, :1])).norm() < 0.02 * plain(x[:, :1]).norm()


def test_tied_weights_stay_tied():
    lm = tiny_lm("llama").base
    lm.lm_head.weight = lm.model.embed_tokens.weight
    pack(lm)
    assert isinstance(lm.lm_head, FrozenLinear) and lm.lm_head.weight is lm.model.embed_tokens.weight


@pytest.mark.parametrize("mask", ["causal", "reference"])
@pytest.mark.parametrize("family", ["opt", "opt post-norm", "llama"])
@pytest.mark.parametrize("scoring", ["library", "reference"])
def test_beams_that_share_a_beginning_find_the_same_texts_as_without_a_cache(family, mask, scoring):
    """With packed weights and one pass for all beams of an item, for every layout of the injection."""
    fast, slow = tiny_lm(family), tiny_lm(family)
    torch.manual_seed(1)
    width = fast.family.embed_size(fast.base)
    for name in INJECTIONS:
        config, n = injection(name, mask)
        tokens = torch.randn(2, n, WIDTH)
        for ids, prompt_len in INPUTS:
            prompt = torch.randn(2, prompt_len, width) if prompt_len else None
            generation = GenerationConfig(num_beams=3, max_new_tokens=6, beam_scoring=scoring)
            inputs = ids, torch.ones_like(ids), prompt, tokens, config, generation
            assert torch.equal(fast.decode(*inputs), slow.decode(*inputs, use_cache=False)), name


@pytest.mark.parametrize("mask", ["causal", "reference"])
@pytest.mark.parametrize("family", ["opt", "opt post-norm", "llama"])
def test_a_prompt_that_all_items_share_is_computed_once_below_the_first_replaced_layer(family, mask):
    fast, slow = tiny_lm(family), tiny_lm(family)
    torch.manual_seed(1)
    width = fast.family.embed_size(fast.base)
    for name in INJECTIONS:
        config, n = injection(name, mask)
        for ids, seen in (
            (torch.tensor([[1, 6, 7], [8, 9, 3]]), torch.tensor([[0, 1, 1], [1, 1, 1]])),
            (torch.tensor([[2], [2]]), torch.tensor([[1], [1]])),
        ):
            for prompt in (torch.randn(1, 3, width), torch.randn(1, 3, width)):
                for beams in (1, 3):
                    generation = GenerationConfig(num_beams=beams, max_new_tokens=6)
                    inputs = ids, seen, prompt.expand(2, -1, -1), torch.randn(2, n, WIDTH), config, generation
                    assert torch.equal(fast.decode(*inputs), slow.decode(*inputs, use_cache=False)), name
    assert fast._beginnings and not slow._beginnings


def test_int8_is_chosen_by_the_dtype_and_only_on_a_cpu(tiny_model_dir):
    model = EPALM.from_pretrained(tiny_model_dir, device="cpu", dtype=torch.int8)
    found = [module for module in model.lm.base.modules() if isinstance(module, FrozenLinear)]
    assert found and all(module.product and module.weight.dtype == torch.float32 for module in found)
    with pytest.raises(EPALMError, match="int8 weights are for a CPU; on cuda use"):
        EPALM.from_pretrained(tiny_model_dir, device="cuda", dtype=torch.int8)
