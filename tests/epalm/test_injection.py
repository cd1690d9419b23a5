"""The schedule, the masks and the leak."""

import pytest
import torch

from epalm.config import InjectionConfig
from epalm.decoding import text_loss
from epalm.injection import injection_schedule
from epalm.injection_cache import CachePlan
from tests.helpers.tiny import INJECTIONS, LAYERS, VOCAB, WIDTH, injection, tiny_lm

FAMILIES = ("opt", "opt post-norm", "llama")


def test_published_schedule_pairs_two_lm_layers_with_each_of_six_tokens():
    schedule = injection_schedule(InjectionConfig(19, 31), num_layers=32, num_tokens=6)
    assert schedule == [-1] * 19 + [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5] + [-1]


@pytest.mark.parametrize(
    ("start", "end", "text_step", "tokens", "expected"),
    [
        (0, 7, 1, 3, [0, 0, 1, 1, 2, 2, 2]),  # the last token serves the remainder
        (2, 7, 1, 6, [-1, -1, 0, 1, 2, 3, 4]),  # fewer layers than tokens: the last is never used
        (1, 7, 3, 6, [-1, -1, -1, 2, -1, -1, 5]),  # multiples of text_step, counted from layer 0
        (3, 7, 1, 1, [-1, -1, -1, 0, 0, 0, 0]),
    ],
)
def test_schedule(start, end, text_step, tokens, expected):
    assert injection_schedule(InjectionConfig(start, end, text_step), 7, tokens) == expected


def logits(lm, config, ids, tokens, prompt, mask=None):
    return lm(ids, mask, prompt, tokens, config).logits


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layout", INJECTIONS)
def test_causal_mask_never_shows_the_future(family, layout):
    lm, (config, n) = tiny_lm(family), injection(layout, "causal")
    ids = torch.randint(3, VOCAB, (2, 7))
    changed = torch.cat([ids[:, :-1], (ids[:, -1:] + 1) % VOCAB], dim=1)
    tokens, prompt = torch.randn(2, n, WIDTH), torch.randn(2, 3, lm.family.embed_size(lm.base))
    before, after = (logits(lm, config, x, tokens, prompt) for x in (ids, changed))
    torch.testing.assert_close(before[:, :-1], after[:, :-1], rtol=0, atol=1e-5)
    assert (before[:, -1] - after[:, -1]).abs().max() > 1e-2


@pytest.mark.parametrize("layout", INJECTIONS)
def test_reference_mask_leaks_the_future_exactly_where_a_layer_follows_the_range(layout):
    lm, (config, n) = tiny_lm("opt"), injection(layout, "reference")
    ids = torch.randint(3, VOCAB, (1, 7))
    changed = torch.cat([ids[:, :-1], (ids[:, -1:] + 1) % VOCAB], dim=1)
    tokens, prompt = torch.randn(1, n, WIDTH), torch.randn(1, 3, WIDTH)
    before, after = (logits(lm, config, x, tokens, prompt) for x in (ids, changed))
    leak = (before[:, 1:-1] - after[:, 1:-1]).abs().max()  # row 0 itself sees everything
    assert (leak > 1e-3) == (CachePlan.of(config, LAYERS, n).leak_layer < LAYERS)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_token_of_the_schedule_reaches_the_text(family):
    lm, (config, n) = tiny_lm(family), injection("one layer after the range, as published", "causal")
    ids = torch.randint(3, VOCAB, (1, 4))
    tokens = torch.randn(1, n, WIDTH, requires_grad=True)
    logits(lm, config, ids, tokens, None)[:, -1].square().sum().backward()
    assert (tokens.grad.abs().amax(-1) > 0).all()


def test_rows_are_perceptual_token_prompt_and_text():
    lm, (config, n) = tiny_lm("llama"), injection("a single token", "causal")
    ids, tokens, prompt = torch.randint(3, VOCAB, (2, 5)), torch.randn(2, n, WIDTH), torch.randn(2, 3, WIDTH)
    assert logits(lm, config, ids, tokens, prompt).shape == (2, 1 + 3 + 5, VOCAB)
    assert logits(lm, config, ids, None, prompt).shape == (2, 3 + 5, VOCAB)


@pytest.mark.parametrize("family", FAMILIES)
def test_without_tokens_and_prompt_it_is_the_library_model(family):
    lm = tiny_lm(family)
    ids = torch.randint(3, VOCAB, (2, 6))
    mask = torch.tensor([[1] * 6, [0, 0, 1, 1, 1, 1]])
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    expected = lm.base(ids, attention_mask=mask, position_ids=positions).logits
    ours = logits(lm, None, ids, None, None, mask)
    torch.testing.assert_close(ours[mask.bool()], expected[mask.bool()], rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_on_the_left_changes_nothing_in_causal_mode(family):
    lm, (config, n) = tiny_lm(family), injection("one layer after the range, as published", "causal")
    ids = torch.randint(3, VOCAB, (1, 5))
    tokens, prompt = torch.randn(1, n, WIDTH), torch.randn(1, 3, lm.family.embed_size(lm.base))
    padded = torch.cat([torch.ones(1, 4, dtype=torch.long), ids], dim=1)
    mask = torch.tensor([[0] * 4 + [1] * 5])
    alone = logits(lm, config, ids, tokens, prompt)[:, -5:]
    torch.testing.assert_close(
        logits(lm, config, padded, tokens, prompt, mask)[:, -5:], alone, rtol=0, atol=1e-5
    )


def test_loss_is_the_cross_entropy_of_the_next_token_with_labels_of_minus_100_left_out():
    scores = torch.randn(2, 1 + 3 + 4, VOCAB)
    labels = torch.tensor([[2, 5, 6, -100], [2, 7, -100, -100]])
    losses = text_loss(scores, labels)
    text = scores[:, 4:].log_softmax(-1)
    assert losses.shape == (2, 3)
    assert losses[0, 1].item() == pytest.approx(-text[0, 1, 6].item(), rel=1e-5)
    assert losses[1].tolist() == pytest.approx([-text[1, 0, 7].item(), 0.0, 0.0], rel=1e-5)
