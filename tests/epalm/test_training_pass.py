"""The pass of a training step computes shared rows once and only the logits that count: exactly the same."""

import pytest
import torch
from torch import Tensor

from epalm.decoding import text_loss
from epalm.training_pass import common_words, labelled_losses
from tests.helpers.tiny import INJECTIONS, VOCAB, WIDTH, injection, tiny_lm

PAD = 1
MODELS = [("llama", 3), ("opt", 3), ("opt post-norm", 3), ("llama", 0)]


def batch(texts: list[tuple[list[int], list[int]]], left: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """(words that are not learned, words that are) -> ids, mask and labels."""
    width = max(len(before) + len(after) for before, after in texts)
    ids, labels = torch.full((len(texts), width), PAD), torch.full((len(texts), width), -100)
    mask = torch.zeros_like(ids)
    for row, (before, after) in enumerate(texts):
        length = len(before) + len(after)
        place = slice(width - length, width) if left else slice(0, length)
        ids[row, place] = torch.tensor(before + after)
        labels[row, place] = torch.tensor([-100] * len(before) + after)
        mask[row, place] = 1
    return ids, mask, labels


def words(count: int, seed: int) -> list[int]:
    return torch.randint(3, VOCAB, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


TEXTS = {
    "a common beginning": batch([([5, 6, 7], words(2 + i, i)) for i in range(4)]),
    "questions of their own": batch([([5, *words(i, 9 + i)], words(3, i)) for i in range(4)]),
    "answers alone": batch([([], words(2 + i, i)) for i in range(4)]),
    "padded on the right": batch([([], words(2 + i, i)) for i in range(4)], left=False),
}


@pytest.mark.parametrize("texts", TEXTS)
@pytest.mark.parametrize("mode", ["causal", "reference"])
@pytest.mark.parametrize("layout", INJECTIONS)
@pytest.mark.parametrize(
    ("family", "prompt_len"), [("llama", 3), ("opt", 3), ("opt post-norm", 3), ("llama", 0)]
)
def test_losses_and_gradients_are_those_of_the_plain_pass(family, prompt_len, layout, mode, texts):
    lm = tiny_lm(family)
    config, count = injection(layout, mode)
    ids, mask, labels = TEXTS[texts]
    torch.manual_seed(0)
    width = 16 if family == "opt post-norm" else WIDTH
    prompt = torch.randn(prompt_len, width, requires_grad=True) if prompt_len else None
    tokens = torch.randn(4, count, WIDTH, requires_grad=True)
    trained = [tokens] if prompt is None else [tokens, prompt]
    rows = None if prompt is None else prompt.expand(4, -1, -1)
    shares = torch.rand(4)

    plain = text_loss(lm(ids, mask, rows, tokens, config).logits, labels)
    expected = torch.autograd.grad((plain.sum(1) * shares).sum(), trained)
    losses = labelled_losses(lm, prompt, tokens, config, ids, mask, labels)
    gradients = torch.autograd.grad((losses.sum(1) * shares).sum(), trained)

    torch.testing.assert_close(losses, plain, rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(gradients, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4 * theirs.abs().max().item())


def test_without_media_it_is_the_text_alone():
    lm, (ids, mask, labels) = tiny_lm("llama"), TEXTS["a common beginning"]
    config, _ = injection("a single token", "causal")
    plain = text_loss(lm(ids, mask).logits, labels)
    losses = labelled_losses(lm, None, None, config, ids, mask, labels)
    torch.testing.assert_close(losses, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("texts", "common"),
    [
        ([([5, 6, 7], [8]), ([5, 6, 7], [9, 9])], 2),  # the last common word predicts the first learned one
        ([([5, 6, 7], [8]), ([5, 6, 9], [8])], 1),
        ([([5], [8]), ([5], [8])], 0),
        ([([5, 6], [8]), ([6, 6], [8])], 0),
        ([([], [8, 9]), ([], [8, 9])], 0),
    ],
)
@pytest.mark.parametrize("left", [True, False])
def test_common_words_are_those_that_all_texts_begin_with_and_none_learns(texts, common, left):
    assert common_words(*batch(texts, left)) == common


def test_no_gradient_is_computed_where_none_is_wanted():
    lm, (ids, mask, labels) = tiny_lm("llama"), TEXTS["a common beginning"]
    config, count = injection("a single token", "causal")
    with torch.no_grad():
        losses = labelled_losses(lm, None, torch.randn(4, count, WIDTH), config, ids, mask, labels)
    assert not losses.requires_grad
