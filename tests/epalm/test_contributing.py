"""The doors of CONTRIBUTING.md that lead into `epalm`: each example runs as it stands there."""

import json
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import Dinov2Config, Dinov2Model, GraniteConfig, GraniteForCausalLM

from epalm.config import InjectionConfig
from epalm.decoding import InjectedLM
from epalm.encoders.load import LOADERS, load_encoder
from epalm.families import FAMILIES
from epalm.media.recipes import RECIPES, recipe_from_dict
from tests.helpers.contributing import run_door

TABLES: tuple[dict[str, Any], ...] = (FAMILIES, LOADERS, RECIPES["image"])


@pytest.fixture(autouse=True)
def tables_as_before():
    """What an example enters is taken out again."""
    kept = [dict(table) for table in TABLES]
    yield
    for table, entries in zip(TABLES, kept, strict=True):
        table.clear()
        table.update(entries)


def test_the_example_of_a_language_model_family_gives_its_logits_and_takes_tokens():
    run_door("A new language model family")
    torch.manual_seed(0)
    sizes = {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 4, "intermediate_size": 48}
    scales = {"embedding_multiplier": 3.0, "logits_scaling": 0.5}
    config = GraniteConfig(**sizes, **scales, num_attention_heads=4, num_key_value_heads=2)
    base = GraniteForCausalLM(config).eval()
    lm, ids = InjectedLM(base), torch.randint(3, 40, (2, 7))
    torch.testing.assert_close(lm(ids).logits, base(ids).logits, atol=1e-5, rtol=1e-4)
    tokens = torch.randn(2, 2, 2, 32)
    one, other = (lm(ids, None, None, seen, InjectionConfig(1, 4)).logits[:, 1:] for seen in tokens)
    assert not torch.allclose(one, other)


def test_the_example_of_an_encoder_is_found_by_its_type_and_gives_every_layer(tmp_path):
    run_door("A new encoder")
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    network = Dinov2Model(Dinov2Config(**sizes)).eval()
    network.save_pretrained(tmp_path)
    encoder, pixels = load_encoder(tmp_path), torch.randn(2, 3, 28, 28)
    last, first, both = encoder(pixels, [-1, 0, (0, 1)])
    torch.testing.assert_close(last, network(pixels).last_hidden_state[:, 0])
    assert encoder.widths == (24, 24, 24) and both.shape == (2, 48)
    assert torch.equal(both[:, :24], first) and not torch.equal(first, last)


def test_the_example_of_a_recipe_makes_tensors_and_survives_a_config():
    run_door("A new preprocessing recipe")
    recipe = RECIPES["image"]["siglip"]
    pixels = recipe(recipe.open(Image.new("RGB", (50, 40), "white")))
    assert pixels.shape == (3, 384, 384) and torch.equal(pixels, torch.ones_like(pixels))
    assert recipe_from_dict("image", json.loads(json.dumps(recipe.to_dict()))) == recipe
