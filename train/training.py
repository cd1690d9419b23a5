"""`python -m train fit CONFIG`, also under `accelerate launch -m`: run a training from its settings.

Builds the parts (frozen LM, features, batches, regime, adapter) and passes them to `train.fit`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator

from epalm.adapted import AdaptedLM
from epalm.text import TaskText
from train.batches import Batch, ItemBatches, Source, TrainingSet, items_per_step, limited
from train.checkpoint import Checkpoint, identity_of, items_identity
from train.data.manifest import Item, load_manifest, rng_of
from train.evaluate import evaluate_split
from train.features.means import mean_features, store_mean_features
from train.features.shards import cached_widths
from train.features.source import FeatureSource, feature_source
from train.fit import Verdict, fit, losses
from train.frozen import lm_config, load_frozen_encoder, load_frozen_lm, new_adapter, say, start_from
from train.machine import memory_full, new_accelerator
from train.regime import Regime, regime_of
from train.run_folder import exclusive
from train.settings import Settings, load_settings
from train.usable import refuse_unusable

MEANS_FROM = 32  # steps whose features are averaged


def train(settings: Settings, resume: bool = False) -> int:
    """Train; returns 0, or 130 if it was stopped.

    Raises:
        EPALMError: settings, data and models do not match; or see `fit`.
    """
    accelerator = new_accelerator(settings)
    device, world = str(accelerator.device), accelerator.num_processes
    parts = training_items(settings)
    items = [item for part in parts for item in part]
    val = settings.items("val")[: settings.evaluation.limit]
    # Before loading any model, so that a training that cannot be done, or gone on with, fails at once.
    refuse_unusable("data.train", parts[0], settings.task)
    for more, part in zip(settings.data.more, parts[1:], strict=True):
        refuse_unusable(more.train, part, more.task or settings.task)
    refuse_unusable("data.val", val, settings.task)
    identity = identity_of(settings, **items_identity(items, items_per_step(settings, world)))
    checkpoint = Checkpoint.open(Path(settings.out), identity, resume)

    sizes = lm_config(settings)
    lm, tokenizer = load_frozen_lm(settings, sizes, device)
    encoder = None if settings.data.cache else load_frozen_encoder(settings, device)
    widths = encoder.widths if encoder else cached_widths(Path(settings.data.cache or ""))
    config = settings.adapter_config(sizes, widths)
    adapter = new_adapter(settings, config, lm, tokenizer)
    if checkpoint.state is None and settings.init_from is not None:
        say(start_from(adapter, settings.init_from))
    model = AdaptedLM(lm, adapter.to(accelerator.device), tokenizer)
    features = feature_source(settings, config, {"val": val, "train": items}, encoder)
    sets = [TrainingSet(parts[0], model.text)]
    for more, part in zip(settings.data.more, parts[1:], strict=True):
        sets.append(TrainingSet(part, TaskText(more.task or settings.task, tokenizer), more.weight))
    regime = regime_of(settings)
    source = ItemBatches(settings, sets, features, regime, accelerator.process_index, world)
    name = settings.metric

    def validate() -> Verdict:
        try:
            metrics = evaluate_split(accelerator, model, features, val, settings, java=False).metrics
            loss = mean_loss(accelerator, model, features, val, settings, regime)
        except torch.OutOfMemoryError as error:
            more = "; --resume continues from the last checkpoint"
            raise memory_full("evaluation.batch", settings.evaluation.batch, more) from error
        summary = f"{name} {100 * metrics[name]:.2f}, loss {loss:.3f}"
        return Verdict(metrics, metrics[name], summary, loss)

    try:
        code = fit(settings, source, model, regime, checkpoint, validate, accelerator, encoder)
        if code == 0 and accelerator.is_main_process:
            keep_means(Path(settings.out), source)
        return code
    except torch.OutOfMemoryError as error:
        optim = settings.optim
        hint = f" and double optim.accumulate (now {optim.accumulate}), which gives the same steps"
        raise memory_full("optim.batch", optim.batch, hint) from error


def keep_means(out: Path, source: Source) -> None:
    """Store the mean features of the first steps with the adapters, for explanations."""
    steps = range(min(source.per_epoch, MEANS_FROM))
    means = mean_features(source(step).features for step in steps)
    for name in ("last", "best"):
        if (out / name).exists():
            store_mean_features(out / name, means)


def training_items(settings: Settings) -> list[list[Item]]:
    """The items of `data.train` and of each set of `data.more`, each reduced to the fraction `limit`."""
    manifests = [settings.items("train"), *(load_manifest(Path(more.train)) for more in settings.data.more)]
    return [limited(items, settings.limit, settings.optim.seed) for items in manifests]


@torch.no_grad()
def mean_loss(
    accelerator: Accelerator,
    model: AdaptedLM,
    features: FeatureSource,
    items: Sequence[Item],
    settings: Settings,
    regime: Regime,
) -> float:
    """The mean loss of a split's items, each with a fixed one of its answers."""
    own = items[accelerator.process_index :: accelerator.num_processes]
    total = torch.zeros((), device=accelerator.device)
    for start in range(0, len(own), settings.evaluation.batch):
        part = own[start : start + settings.evaluation.batch]
        chosen = [regime.answer(item, rng_of(item, "val")) for item in part]
        texts = [
            model.text.training_text(item.prompt, answer) for item, answer in zip(part, chosen, strict=True)
        ]
        batch = Batch(features(part, [0] * len(part)), *regime.text_batch(texts, model.text))
        total += losses(model, regime, batch).sum()
    return accelerator.reduce(total, "sum").item() / len(items)


def run_fit(arguments: argparse.Namespace) -> int:
    overrides = list(arguments.set)
    if arguments.limit is not None:
        overrides.append(f"limit={arguments.limit}")
    settings = load_settings(arguments.config, overrides)
    with exclusive(Path(settings.out)):
        return train(settings, arguments.resume)
