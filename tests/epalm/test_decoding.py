"""Decoding: cached equals uncached, a batch equals its items, streaming and beams."""

import pytest
import torch

from epalm import EPALM
from epalm.cache_layers import ROOM
from epalm.config import GenerationConfig
from tests.helpers.tiny import INJECTIONS, VOCAB, WIDTH, injection, tiny_lm

FAMILIES = ("opt", "opt post-norm", "llama")
NEW = 8


def inputs(lm, n, batch=2, length=4):
    torch.manual_seed(1)
    ids = torch.randint(3, VOCAB, (batch, length))
    prompt = torch.randn(batch, 3, lm.family.embed_size(lm.base))
    return ids, torch.ones_like(ids), prompt, torch.randn(batch, n, WIDTH)


@pytest.mark.parametrize("mask", ["causal", "reference"])
@pytest.mark.parametrize("layout", INJECTIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_cached_decoding_gives_the_logits_and_tokens_of_uncached_decoding(family, layout, mask):
    lm, (config, n) = tiny_lm(family), injection(layout, mask)
    args = (*inputs(lm, n), config, GenerationConfig(1, max_new_tokens=NEW))
    options = {"return_dict_in_generate": True, "output_logits": True, "eos_token_id": None}
    cached, uncached = (lm.decode(*args, use_cache=c, **options) for c in (True, False))
    assert cached.sequences.tolist() == uncached.sequences.tolist()
    torch.testing.assert_close(torch.stack(cached.logits), torch.stack(uncached.logits), rtol=0, atol=2e-4)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_question_may_be_longer_than_what_the_cache_keeps_in_reserve(family, beams):
    lm, (config, n) = tiny_lm(family), injection("one layer after the range, as published", "causal")
    ids, mask, prompt, tokens = inputs(lm, n, length=ROOM + 5)
    prompt = prompt[:1].expand(len(ids), -1, -1)  # the same for all, so that it is computed once
    args = (ids, mask, prompt, tokens, config, GenerationConfig(beams, max_new_tokens=3))
    assert lm.decode(*args, use_cache=True).tolist() == lm.decode(*args, use_cache=False).tolist()


@pytest.mark.parametrize("scoring", ["library", "reference"])
@pytest.mark.parametrize("mask", ["causal", "reference"])
@pytest.mark.parametrize(
    "layout", ["one layer after the range, as published", "several layers after the range"]
)
def test_beam_search_is_the_same_with_and_without_cache(layout, mask, scoring):
    lm, (config, n) = tiny_lm("opt"), injection(layout, mask)
    args = (*inputs(lm, n), config, GenerationConfig(3, max_new_tokens=NEW, beam_scoring=scoring))
    assert lm.decode(*args, use_cache=True).tolist() == lm.decode(*args, use_cache=False).tolist()


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_gives_each_item_what_it_gets_alone_in_causal_mode(family, beams):
    lm, (config, n) = tiny_lm(family), injection("one layer after the range, as published", "causal")
    ids, mask, prompt, tokens = inputs(lm, n, batch=3, length=6)
    for row, padding in enumerate((0, 2, 4)):
        ids[row, :padding], mask[row, :padding] = 1, 0
    generation = GenerationConfig(beams, max_new_tokens=NEW)
    together = lm.decode(ids, mask, prompt, tokens, config, generation)
    for row, padding in enumerate((0, 2, 4)):
        one = slice(row, row + 1)
        alone = lm.decode(
            ids[one, padding:], mask[one, padding:], prompt[one], tokens[one], config, generation
        )
        new = together[row, 6:].tolist()
        expected = alone[0, 6 - padding :].tolist()
        assert new == expected + [1] * (len(new) - len(expected))


def test_a_limit_of_the_whole_length_leaves_one_token_to_a_question_as_long_as_itself():
    lm, (config, n) = tiny_lm("opt"), injection("a single token", "causal")
    for beams, scoring in ((1, "library"), (3, "reference")):
        generation = GenerationConfig(beams, max_length=4, beam_scoring=scoring)
        out = lm.decode(*inputs(lm, n, length=9), config, generation)
        assert out.shape == (2, 10)


def test_beam_scores_divide_by_the_whole_length_in_reference_scoring():
    """With one step left nothing is closed, and the best beam's score is its log-probability / length."""
    lm, (config, n) = tiny_lm("opt"), injection("a single token", "causal")
    ids, mask, prompt, tokens = inputs(lm, n, batch=1)
    log_probs = lm(ids, mask, prompt, tokens, config).logits[0, -1].log_softmax(-1)
    log_probs[2] = -torch.inf  # the end token closes a hypothesis without the step's token
    out = lm.decode(
        ids,
        mask,
        prompt,
        tokens,
        config,
        GenerationConfig(3, max_length=5, beam_scoring="reference"),
        return_dict_in_generate=True,
    )
    assert out.sequences[0, -1] == log_probs.argmax()
    assert out.sequences_scores.item() == pytest.approx(log_probs.max().item() / 5, rel=1e-5)


@pytest.mark.parametrize("scoring", ["library", "reference"])
def test_a_beam_search_can_return_several_texts_best_first(scoring):
    lm, (config, n) = tiny_lm("opt"), injection("a single token", "causal")
    args = (*inputs(lm, n), config, GenerationConfig(4, max_new_tokens=NEW, beam_scoring=scoring))
    several = lm.decode(*args, num_return_sequences=3, return_dict_in_generate=True, output_scores=True)
    assert several.sequences.shape[0] == 6
    scores = several.sequences_scores.view(2, 3)
    assert scores.tolist() == scores.sort(descending=True).values.tolist()
    assert len({tuple(row) for row in several.sequences[:3].tolist()}) == 3
    best = lm.decode(*args)
    width = best.shape[1]
    assert several.sequences[::3, :width].tolist() == best.tolist()


def test_half_precision_runs_with_padding_and_without_prompt():
    for dtype in (torch.float16, torch.bfloat16):
        lm, (config, n) = tiny_lm("llama").to(dtype), injection("from the first layer", "causal")
        ids, mask, _, tokens = inputs(lm, n)
        mask[1, :2] = 0
        logits = lm(ids, mask, None, tokens, config).logits
        assert logits.dtype == dtype and logits.isfinite().all()


def test_dropout_acts_on_the_embeddings_in_training_only(tiny_opt_dir):
    model = EPALM.from_pretrained(tiny_opt_dir, device="cpu")
    lm, ids = model.lm, torch.tensor([[5, 6, 7, 8]])
    calm = lm(ids).logits
    assert torch.equal(calm, lm(ids).logits)
    lm.base.config.dropout = 0.5
    for module in lm.base.modules():  # the layers' own dropout stays off: what differs is the embeddings'
        if hasattr(module, "dropout") and isinstance(module.dropout, float):
            module.dropout = 0.0
    lm.base.train()
    torch.manual_seed(0)
    first, second = lm(ids).logits, lm(ids).logits
    lm.base.eval()
    assert not torch.allclose(first, second)
    torch.testing.assert_close(lm(ids).logits, calm)
