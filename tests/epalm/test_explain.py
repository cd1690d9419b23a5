"""Explanations are true: they are computed here a second time, the long way."""

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from epalm.explain.contributions import contributions, layers_of_tokens, words_of
from epalm.explain.where import look
from epalm.scoring import token_log_probabilities
from epalm.verify import Case
from tests.helpers.tiny import INJECTIONS, LAYERS, VOCAB, WIDTH, injection, tiny_lm

GOLDEN = Path(__file__).parent.parent / "golden"
TOKENIZER = GOLDEN / "toy_tokenizer"
CASES = ["image_prenorm_a", "image_postnorm_proj_a", "video_qa_a", "audio_caption_a"]


def recorded(name):
    """A recorded run, the text before its first answer, and that answer."""
    case = Case.load(GOLDEN / name)
    mode = sorted({key.split(".")[1] for key in case.inputs if key.startswith("gen.")})[0]
    ids = case.inputs[f"gen.{mode}.input_ids"][:1]
    given = case.inputs[f"gen.{mode}.attention_mask"][:1].bool()
    answer = case.expected[f"gen.{mode}.greedy"][:1, ids.shape[1] :]
    index = case.config["generation"]["prompts"][mode]["image_index"]
    media = case.inputs["image"][0 if index == "all" else index][None]
    return case, ids[given][None], answer, media


@pytest.mark.parametrize("mask", ["causal", "reference"])
@pytest.mark.parametrize("layout", INJECTIONS)
@pytest.mark.parametrize("family", ["opt", "llama"])
def test_a_token_replaced_by_itself_changes_nothing(family, layout, mask):
    lm, (config, n) = tiny_lm(family), injection(layout, mask)
    torch.manual_seed(1)
    ids, answer = torch.randint(3, VOCAB, (1, 4)), torch.randint(3, VOCAB, (1, 5))
    tokens = torch.randn(1, n, WIDTH)
    _, drops = contributions(lm, ids, answer, None, tokens, tokens.clone(), config)
    assert drops.shape == (n, 5)
    assert torch.count_nonzero(drops) == 0
    _, drops = contributions(lm, ids, answer, None, tokens, torch.zeros_like(tokens), config)
    read = [bool(layers) for layers in layers_of_tokens(config, LAYERS, n)]
    assert [bool(row.abs().max() > 0) for row in drops] == read


@pytest.mark.parametrize("name", CASES)
def test_contributions_equal_a_direct_computation_on_a_recorded_case(name):
    case, ids, answer, media = recorded(name)
    config = case.adapter.config
    with torch.no_grad():
        prompt = None if case.adapter.prompt is None else case.adapter.prompt()[None]
        tokens = case.adapter.tokens(case.encoder(media, config.encoder.feature_layers))
        means = case.adapter.tokens(case.encoder(torch.zeros_like(media), config.encoder.feature_layers))
        whole, drops = contributions(case.lm, ids, answer, prompt, tokens, means, config.injection)

        def direct(seen, t):
            """Log-probability of answer token t in a pass over nothing but what stood before it."""
            text = torch.cat([ids, answer[:, :t]], dim=1)
            logits = case.lm(text, torch.ones_like(text), prompt, seen, config.injection).logits
            return logits[0, -1].log_softmax(0)[answer[0, t]].item()

        for t in range(answer.shape[1]):
            assert whole[t].item() == pytest.approx(direct(tokens, t), abs=1e-5)
            for j in range(config.num_tokens):
                rows = [(means if i == j else tokens)[:, i] for i in range(config.num_tokens)]
                mixed = torch.stack(rows, dim=1)
                lost = direct(tokens, t) - direct(mixed, t)
                assert drops[j, t].item() == pytest.approx(lost, abs=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_the_map_says_how_the_answer_changes_with_the_last_feature_map(name):
    case, ids, answer, media = recorded(name)
    config = case.adapter.config
    prompt = None if case.adapter.prompt is None else case.adapter.prompt()[None].detach()
    given = torch.ones_like(ids), torch.ones_like(answer)

    def log_probability(features):
        tokens = case.adapter.tokens(features)
        return token_log_probabilities(
            case.lm, ids, given[0], answer, given[1], prompt, tokens, config.injection
        ).sum()

    looked = look(case.encoder, media, config.encoder.feature_layers, log_probability)
    frames, height, width = looked.relevance.shape
    assert looked.relevance.abs().max() > 0
    assert looked.attention.shape == (frames, height, width)
    assert bool((looked.attention.sum((1, 2)) < 1).all())  # the rest is [CLS] itself
    if name.startswith("image"):  # all positions scaled together: the map's sum is the derivative of that
        block = case.encoder.network.blocks[-1]
        step, found = 1e-2, []
        for scale in (1 + step, 1 - step):

            def scaled(_module, _args, output, scale=scale):
                return torch.cat([output[:, :1], output[:, 1:] * scale], dim=1)

            hook = block.norm1.register_forward_hook(scaled)
            with torch.no_grad():
                features = case.encoder(media, config.encoder.feature_layers)
                found.append(log_probability(features).item())
            hook.remove()
        derivative = (found[0] - found[1]) / (2 * step)
        assert looked.relevance.sum().item() == pytest.approx(derivative, rel=0.05, abs=1e-4)


def test_every_token_of_a_text_belongs_to_one_word():
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    text = "the cat is on the tïny mat 🐈 now."
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    words = words_of(tokenizer, [*ids, tokenizer.eos_token_id])
    assert [word for word, _ in words] == tokenizer.decode(ids).split()
    assert [i for _, positions in words for i in positions] == list(range(len(ids)))
    assert words_of(tokenizer, [tokenizer.eos_token_id]) == []
