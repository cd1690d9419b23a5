"""`python -m train fit CONFIG`, also under `accelerate launch -m`: a training as its settings say.

This makes the parts (frozen LM, features, batches, regime, adapter) and hands them to `train.fit`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from epalm.errors import EPALMError
from epalm.text import TaskText
from train.batches import ItemBatches, items_per_step, limited
from train.checkpoint import Checkpoint, identity_of, items_identity
from train.data.benchmarks import find_dataset
from train.data.manifest import Item
from train.evaluate import evaluate_split
from train.features.cache import cached_widths
from train.features.source import feature_source
from train.fit import Verdict, fit
from train.frozen import lm_config, load_frozen_encoder, load_frozen_lm, new_adapter
from train.machine import memory_full, new_accelerator
from train.regime import regime_of
from train.run_folder import exclusive
from train.settings import Settings, load_settings


def train(settings: Settings, resume: bool = False) -> int:
    """Train; returns 0, or 130 if it was told to stop.

    Raises:
        EPALMError: settings, data or parts do not fit together, or as `fit`.
    """
    accelerator = new_accelerator(settings)
    device, world = str(accelerator.device), accelerator.num_processes
    items = limited(settings.items("train"), settings.limit, settings.optim.seed)
    val = settings.items("val")[: settings.evaluation.limit]
    refuse_unanswered(train=items, val=val)
    # Before anything is loaded: a training that cannot go on says so at once.
    identity = identity_of(settings, **items_identity(items, items_per_step(settings, world)))
    checkpoint = Checkpoint.open(Path(settings.out), identity, resume)

    sizes = lm_config(settings)
    lm, tokenizer = load_frozen_lm(settings, sizes, device)
    encoder = None if settings.data.cache else load_frozen_encoder(settings, device)
    widths = encoder.widths if encoder else cached_widths(Path(settings.data.cache or ""))
    config = settings.adapter_config(sizes, widths)
    text, regime = TaskText(settings.task, tokenizer), regime_of(settings)
    features = feature_source(settings, config, {"val": val, "train": items}, encoder)
    source = ItemBatches(settings, items, features, text, regime, accelerator.process_index, world)
    adapter = new_adapter(settings, config, lm, tokenizer).to(accelerator.device)
    name = find_dataset(settings.data.dataset).metrics[0]

    def validate() -> Verdict:
        parts = (accelerator, lm, text, adapter, features)
        try:
            metrics = evaluate_split(*parts, val, settings, java=False).metrics
        except torch.OutOfMemoryError as error:
            more = "; --resume goes on at the last checkpoint"
            raise memory_full("evaluation.batch", settings.evaluation.batch, more) from error
        return Verdict(metrics, metrics[name], f"{name} {100 * metrics[name]:.2f}")

    try:
        return fit(settings, source, lm, adapter, regime, checkpoint, validate, accelerator, encoder)
    except torch.OutOfMemoryError as error:
        optim = settings.optim
        more = f" and double optim.accumulate (now {optim.accumulate}), which gives the same steps"
        raise memory_full("optim.batch", optim.batch, more) from error


def refuse_unanswered(**splits: Sequence[Item]) -> None:
    """EPALMError if some items have nothing to learn or to compare with."""
    for name, items in splits.items():
        if without := [item.id for item in items if not item.answers]:
            raise EPALMError(
                f"{len(without)} of {len(items)} items of data.{name} have no answers, for example "
                f"{without[0]!r}: a training needs them."
            )


def run_fit(arguments: argparse.Namespace) -> int:
    overrides = list(arguments.set)
    if arguments.limit is not None:
        overrides.append(f"limit={arguments.limit}")
    settings = load_settings(arguments.config, overrides)
    with exclusive(Path(settings.out)):
        return train(settings, arguments.resume)
