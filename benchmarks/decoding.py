"""Decoding against the plain loop, transformers' BLIP-2 and prefix decoding: `python -m benchmarks.decoding`.

All with random weights of the published sizes, 30 tokens each, the encoder included where there is one. The
*plain loop* is the original's: no cache, one pass over everything and all logits for every token. *BLIP-2*
has the same language model and a ViT of the same size; *prefix decoding* runs the library's own class on 64
rows.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.models import (
    OPT,
    SMOLLM2,
    Injected,
    Size,
    random_blip2,
    random_opt,
    random_smollm2,
    random_vit,
)
from benchmarks.timing import Row, Table, compare, paired
from epalm.cpu import pack, quantise
from epalm.encoders.timm_image import TimmImageEncoder

NEW = 30
LAYERS = [-6, -5, -4, -3, -2, -1]
PREFIX = 64  # rows of a picture in SmolVLM
STARTER = Size(SMOLLM2["num_hidden_layers"], SMOLLM2["hidden_size"], 9, 10, 30, tokens=5)


def variants(make: Callable[[], Any], size: Size) -> dict[str, Injected]:
    """The same LM three times: as the library has it, with packed weights, and in int8."""
    models = {name: Injected(make(), size) for name in ("plain", "float32", "int8")}
    pack(models["float32"].base)
    quantise(models["int8"].base, steps_only=True)
    return models


def opt(table: Table, name: str, batches: tuple[int, ...], plain_up_to: int, seconds: float) -> None:
    """An OPT with ViT-B/16 beside BLIP-2 and the plain loop."""
    models = variants(lambda: random_opt(name), OPT[name])
    vits = {kind: random_vit() for kind in models}
    pack(vits["float32"])
    quantise(vits["int8"])
    blip = random_blip2(name)
    for batch in batches:
        pixels = torch.randn(batch, 3, 224, 224)
        for beams in (1, 3):
            run = partial(described, models, vits, pixels, beams)
            other = partial(blip.generate, pixels, num_beams=beams, max_new_tokens=NEW, do_sample=False)
            runs: dict[str, Callable[[], Any]] = {"BLIP-2": other}
            runs |= {kind: partial(run, kind) for kind in ("float32", "int8")}
            if batch <= plain_up_to:
                runs = {"plain loop": partial(run, "plain", False, logits_to_keep=0)} | runs
            samples = paired(runs, 5, seconds, warm=int(batch == 1))
            compare(
                table, f"{name}, batch {batch}, {beams} beam{'s' * (beams > 1)}", samples, next(iter(runs))
            )


def described(
    models: dict[str, Injected],
    vits: dict[str, TimmImageEncoder],
    pixels: Tensor,
    beams: int,
    kind: str,
    cached: bool = True,
    **options: Any,
) -> None:
    """Captions of pixels, from the encoder on."""
    with torch.inference_mode():
        vits[kind](pixels, LAYERS)
    models[kind].decode(len(pixels), beams, NEW, cached, **options)


def per_token(table: Table, name: str, make: Callable[[], Any], size: Size) -> None:
    """Milliseconds before the first token and for each further one."""
    models = variants(make, size)
    for batch, beams in ((1, 1), (1, 3), (4, 3)):
        for kind in ("float32", "int8"):
            model = models[kind]
            runs = {
                "short": partial(model.decode, batch, beams, 2),
                "long": partial(model.decode, batch, beams, NEW),
            }
            samples = paired(runs, 5, 2)
            each = [
                1000 * (b - a) / (NEW - 2) for a, b in zip(samples["short"], samples["long"], strict=True)
            ]
            first = [1000 * a - 2 * b for a, b in zip(samples["short"], each, strict=True)]
            case = f"{name}, batch {batch}, {beams} beam{'s' * (beams > 1)}"
            table.add(Row(case, f"{kind}, prefill", first, "ms"))
            table.add(Row(case, f"{kind}, per token", each, "ms"))


def starter(table: Table, seconds: float) -> None:
    """The size of the starter's LM beside the library's own class on a prefix."""
    models = variants(random_smollm2, STARTER)
    library = random_smollm2()
    for batch in (1, 4, 16):
        prefix = torch.randn(batch, PREFIX, STARTER.width) * 0.02
        seen = torch.ones(batch, PREFIX, dtype=torch.long)
        for beams in (1, 3):

            def other(beams=beams, prefix=prefix, seen=seen) -> None:
                library.generate(  # type: ignore[operator]
                    inputs_embeds=prefix, attention_mask=seen, num_beams=beams, max_new_tokens=NEW,
                    do_sample=False, pad_token_id=0,
                )  # fmt: skip

            runs: dict[str, Callable[[], Any]] = {"prefix decoding": other}
            for kind in ("float32", "int8"):
                runs[kind] = partial(models[kind].decode, batch, beams, NEW)
            if batch == 1:
                plain = partial(models["plain"].decode, batch, beams, NEW, False, logits_to_keep=0)
                runs = {"plain loop": plain} | runs
            samples = paired(runs, 5, seconds, warm=int(batch == 1))
            compare(
                table,
                f"SmolLM2-135M, batch {batch}, {beams} beam{'s' * (beams > 1)}",
                samples,
                next(iter(runs)),
            )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decoding")
    parser.add_argument("--large", action="store_true", help="64 texts at a time and OPT-350m, too: minutes")
    arguments = parser.parse_args()
    table = Table("decoding", "Decoding")
    opt(table, "opt-125m", (1, 4), plain_up_to=4, seconds=6)
    opt(table, "opt-125m", (16,), plain_up_to=0, seconds=1)
    if arguments.large:
        opt(table, "opt-125m", (64,), plain_up_to=0, seconds=1)
        opt(table, "opt-350m", (1,), plain_up_to=0, seconds=1)
    starter(table, 3)
    per_token(table, "opt-125m", lambda: random_opt("opt-125m"), OPT["opt-125m"])
    per_token(table, "SmolLM2-135M", random_smollm2, STARTER)
    table.save()


if __name__ == "__main__":
    main()
