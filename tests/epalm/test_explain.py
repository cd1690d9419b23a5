"""Explanations are true: they are computed here a second time, the long way."""

import threading
from pathlib import Path

import pytest
import timm
import torch
from transformers import AutoTokenizer, WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder as Network

from epalm.encoders.timm_image import TimmImageEncoder
from epalm.encoders.whisper import WhisperEncoder
from epalm.explain.contributions import contributions, layers_of_tokens, words_of
from epalm.explain.where import look, maps_of, watched
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


def test_a_map_of_the_stem_is_part_of_where_whisper_listened():
    torch.manual_seed(0)
    sizes = {"d_model": 16, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 32}
    encoder = WhisperEncoder(Network(WhisperConfig(**sizes, max_source_positions=50)))
    media = torch.full((1, 80, 100), -1.0)
    media[:, :, 20:80] = torch.rand(80, 60)  # silence before and after
    stem = len(encoder.widths) - 1
    maps = [
        look(encoder, media, layers, lambda features: sum(f.square().sum() for f in features)).relevance
        for layers in ((0,), (stem,), (0, stem))
    ]
    assert [m.shape for m in maps] == [(1, 1, 100)] * 3
    assert all(m.abs().max() > 0 for m in maps)
    torch.testing.assert_close(maps[0] + maps[1], maps[2])
    assert maps[2][0, 0, :20].abs().max() == maps[2][0, 0, 80:].abs().max() == 0


def test_the_sum_of_a_convolutional_map_is_the_pooled_features_share():
    torch.manual_seed(0)
    encoder = TimmImageEncoder(timm.create_model("test_efficientnet", num_classes=0))
    media, weights = torch.randn(1, 3, 64, 64), torch.randn(encoder.widths[-1])
    [feature] = encoder(media, [-1])
    found = look(encoder, media, [-1], lambda features: (features[0] * weights).sum()).relevance
    assert found.shape == (1, 2, 2)
    assert found.sum().item() == pytest.approx((feature * weights).sum().item(), rel=1e-4)
    early = look(encoder, media, [0], lambda features: features[0].sum()).relevance
    assert torch.count_nonzero(early) == 0  # nothing of the last map was read


def test_over_many_steps_the_map_sums_to_what_the_answer_gained_by_it():
    """Integrated gradients: also where the gradient at the map itself is gone, as at the end of a softmax."""
    torch.manual_seed(0)
    encoder = TimmImageEncoder(timm.create_model("test_efficientnet", num_classes=0))
    media = torch.randn(1, 3, 64, 64)
    [pooled] = encoder(media, [-1])

    def saturated(features: list[torch.Tensor]) -> torch.Tensor:
        return torch.tanh(6 * (features[0] * pooled).sum() / pooled.square().sum())

    gained = saturated([pooled]).item()
    once, often = (look(encoder, media, [-1], saturated, steps).relevance.sum() for steps in (1, 100))
    assert often.item() == pytest.approx(gained, abs=0.05)
    assert once.item() == pytest.approx(0, abs=0.05)


def test_another_threads_pass_is_left_alone_while_one_is_watched():
    encoder = TimmImageEncoder(timm.create_model("test_efficientnet", num_classes=0))
    media = torch.randn(1, 3, 64, 64)
    with maps_of(watched(encoder, 4)) as seen:
        thread = threading.Thread(target=encoder, args=(media, [-1]))
        thread.start()
        thread.join()
        assert seen == []
        encoder(media, [-1])
        assert len(seen) == 1
