"""Training steps: `fit` on cached features beside its plain pass and beside a plain loop.

    python -m benchmarks.training                  # writes benchmarks/results/training.json
    python -m benchmarks.training --batches 8 --rounds 1 --lms opt-tiny

All take the same step of the same texts: forward and backward pass, clipping, AdamW. *plain loop* does
what first comes to mind: it encodes the pictures in every step (with the starter's encoder; with ViT-B/16 for
an OPT, as in the paper) and computes all logits of one padded batch. *plain pass* trains on cached features,
with logits from the first answer on. *fit* is what `train.fit` does.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable
from pathlib import Path

import timm
import torch
from torch import Tensor

from benchmarks.models import OPT, random_opt, random_smollm2, random_vit
from benchmarks.timing import RESULTS, Table, compare, paired
from epalm.adapted import AdaptedLM
from epalm.adapter import Adapter
from epalm.config import (
    AdapterConfig,
    EncoderConfig,
    GenerationConfig,
    InjectionConfig,
    LMConfig,
    PromptConfig,
    TaskConfig,
)
from epalm.cpu import pack_for_training
from epalm.decoding import InjectedLM, text_loss
from epalm.encoders.timm_image import TimmImageEncoder
from train.batches import Batch
from train.fit import PASS_COST, Trainable
from train.regime import Corrected, make_optimizer, pad_pairs
from train.settings import Optim

INPUT = [504, 3159, 2744]  # the words in front of a caption, "The picture shows"
ANSWERS = (4, 14)  # tokens of a caption, from and to
TOKENS, PROMPT = 5, 14


def encoder_of(lm_name: str) -> tuple[TimmImageEncoder, int, int]:
    """An encoder with random weights, the width of its features, and the side of its pictures in pixels."""
    if lm_name == "starter":
        return TimmImageEncoder(timm.create_model("tf_efficientnet_lite2", pretrained=False)), 1280, 260
    return random_vit(), 768, 224


def model_of(lm_name: str, features: int) -> AdaptedLM:
    """A random LM with a new adapter of the starter's shape, for features of this width."""
    lm = random_smollm2() if lm_name == "starter" else random_opt(lm_name)
    lm.set_attn_implementation("eager")
    injected = InjectedLM(lm)
    layers = injected.num_layers
    width, embed = lm.config.hidden_size, getattr(lm.config, "word_embed_proj_dim", lm.config.hidden_size)
    start = layers // 3 if lm_name == "starter" else OPT[lm_name].start
    torch.manual_seed(0)
    adapter = Adapter(
        AdapterConfig(
            lm=LMConfig(lm_name, width, embed, layers, lm.config.model_type),
            encoder=EncoderConfig("random", (-1,) * TOKENS, (features,) * TOKENS),
            injection=InjectionConfig(start, layers),
            prompt=PromptConfig(PROMPT, mlp=False),
            task=TaskConfig("caption", "image", "The picture shows"),
            generation=GenerationConfig(),
            recipe={},
        )
    )
    return AdaptedLM(injected, adapter, None)


def batch_of(size: int, vocabulary: int, width: int) -> Batch:
    rng = random.Random(0)
    texts = [
        (
            [word % vocabulary for word in INPUT],
            [rng.randrange(vocabulary) for _ in range(rng.randint(*ANSWERS))],
        )
        for _ in range(size)
    ]
    features = torch.randn(size, width)
    return Batch([features] * TOKENS, *pad_pairs(texts, pad_id=0))


def variants(
    plain: AdaptedLM, packed: AdaptedLM, encoder: TimmImageEncoder, width: int, side: int, size: int
) -> dict[str, Callable[[], None]]:
    """A training step of each kind; `packed` is for `fit`, which lays out the LM's weights on a CPU."""
    batch = batch_of(size, plain.lm.config.vocab_size, width)
    regime = Corrected(Optim(1, size, 1e-3, 1e-3), "caption")
    pictures = torch.randn(size, 3, side, side)

    def finisher(model: AdaptedLM) -> Callable[[], None]:
        optimizer = make_optimizer(model.adapter, regime.groups(model.adapter))

        def finish() -> None:
            torch.nn.utils.clip_grad_norm_(model.adapter.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

        return finish

    finish_plain, finish_packed = finisher(plain), finisher(packed)

    def one_pass(features: list[Tensor], keep: int) -> None:
        logits = plain(features, batch.ids, batch.mask, logits_to_keep=keep)
        labels = batch.labels[:, -keep:]
        regime.loss(text_loss(logits, labels), labels).mean().backward()
        finish_plain()

    def loop() -> None:
        one_pass(encoder(pictures, (-1,) * TOKENS), 0)

    def plain_pass() -> None:
        one_pass(batch.features, int((batch.labels != -100).any(0).sum()) + 1)

    trainable = Trainable(packed, regime)

    def fit() -> None:
        for part in batch.parts_by_length(1, pass_cost=PASS_COST["cpu"]):
            assert part.weights is not None
            losses = trainable(part.features, part.ids, part.mask, part.labels)
            (losses * part.weights).sum().backward()
        finish_packed()

    return {"plain loop": loop, "plain pass": plain_pass, "fit": fit}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lms", nargs="+", default=["starter", "opt-125m"], choices=["starter", *OPT])
    parser.add_argument("--batches", nargs="+", type=int, default=[16])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    arguments = parser.parse_args()
    table = Table("training", "Training steps, random weights")
    for lm in arguments.lms:
        encoder, width, side = encoder_of(lm)
        plain, packed = model_of(lm, width), model_of(lm, width)
        pack_for_training(packed.lm.base)
        for size in arguments.batches:
            steps = variants(plain, packed, encoder, width, side, size)
            compare(table, f"{lm}, batch {size}", paired(steps, arguments.rounds, seconds=40), "plain loop")
    table.notes.append(f"captions of {ANSWERS[0]} to {ANSWERS[1]} tokens")
    table.save(arguments.out)


if __name__ == "__main__":
    main()
