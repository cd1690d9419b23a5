"""The log-probability of an answer is the one that decoding saw."""

import pytest
import torch
from PIL import Image

from epalm import EPALM, Request
from epalm.config import GenerationConfig
from epalm.scoring import token_log_probabilities, up_to_end
from tests.helpers.tiny import INJECTIONS, VOCAB, WIDTH, injection, tiny_lm

NEW = 6


def inputs(lm, n, batch=2, length=4):
    torch.manual_seed(1)
    ids = torch.randint(3, VOCAB, (batch, length))
    prompt = torch.randn(batch, 3, lm.family.embed_size(lm.base))
    return ids, torch.ones_like(ids), prompt, torch.randn(batch, n, WIDTH)


@pytest.mark.parametrize("mask", ["causal", "reference"])
@pytest.mark.parametrize("layout", INJECTIONS)
@pytest.mark.parametrize("family", ["opt", "opt post-norm", "llama"])
def test_an_answer_is_scored_as_greedy_decoding_saw_it(family, layout, mask):
    lm, (config, n) = tiny_lm(family), injection(layout, mask)
    ids, given, prompt, tokens = inputs(lm, n)
    options = {"return_dict_in_generate": True, "output_logits": True, "eos_token_id": None}
    settings = GenerationConfig(1, max_new_tokens=NEW)
    out = lm.decode(ids, given, prompt, tokens, config, settings, **options)
    new = out.sequences[:, ids.shape[1] :].clone()
    seen = torch.stack(out.logits, dim=1).log_softmax(-1).gather(2, new[..., None])[..., 0]
    scored = token_log_probabilities(lm, ids, given, new, torch.ones_like(new), prompt, tokens, config)
    torch.testing.assert_close(scored, seen, rtol=0, atol=2e-4)


@pytest.mark.parametrize("mask", ["causal", "reference"])
def test_a_shorter_answer_of_a_batch_is_scored_as_alone(mask):
    lm, (config, n) = tiny_lm("llama"), injection("one layer after the range, as published", mask)
    ids, given, prompt, tokens = inputs(lm, n)
    answers = torch.tensor([[5, 6, 7, 8], [9, 10, 1, 1]])
    counts = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    both = token_log_probabilities(lm, ids, given, answers, counts, prompt, tokens, config)
    alone = token_log_probabilities(
        lm, ids[1:], given[1:], answers[1:, :2], counts[1:, :2], prompt[1:], tokens[1:], config
    )
    torch.testing.assert_close(both[1:, :2], alone)
    assert both[1, 2:].tolist() == [0, 0]


def test_an_answer_ends_with_its_first_end_token():
    assert up_to_end([5, 6, 2, 2, 2], {2}) == [5, 6, 2]
    assert up_to_end([5, 6], {2}) == [5, 6]


@pytest.mark.parametrize("folder", ["tiny_model_dir", "tiny_opt_dir"])
def test_greedy_decoding_tells_how_probable_its_answers_are(folder, request):
    """In both mask modes, also where an answer ends before others of its batch."""
    model = EPALM.from_pretrained(request.getfixturevalue(folder), device="cpu")
    pictures = [Image.new("RGB", (40, 40), colour) for colour in ("red", "green", "white")]
    for task in (None, "what is this"):
        for batch in model._batches([Request(picture, task) for picture in pictures]):
            given = batch.features, batch.inputs
            rows, sure = batch.adapted.scored(*given, GenerationConfig(1, max_new_tokens=NEW))
            assert rows == batch.adapted.generate(*given, GenerationConfig(1, max_new_tokens=NEW)).tolist()
            assert sure == pytest.approx(batch.adapted.log_probabilities(*given, rows), abs=1e-4)
