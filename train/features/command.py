"""`python -m train features`: encode the files of a data set once, into a train.features.cache."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from epalm.config import EncoderConfig
from epalm.errors import EPALMError

if TYPE_CHECKING:
    from epalm.encoders.base import Encoder


def process() -> tuple[int, int, int]:
    """This process's rank, the number of processes, and its rank on this machine.

    accelerate and torchrun set them; without these, there is one process.
    """
    numbers = os.environ.get("RANK", 0), os.environ.get("WORLD_SIZE", 1), os.environ.get("LOCAL_RANK", 0)
    rank, world, local = map(int, numbers)
    return rank, world, local


def run_features(
    manifests: Sequence[Path],
    config: EncoderConfig,
    encoder: Encoder,
    recipe: dict[str, Any],
    cache: Path,
    draws: int,
    batch: int,
    workers: int,
    reference: bool = False,
) -> int:
    """Encode the files of manifests into a cache; continues where an earlier call stopped.

    Under `accelerate launch` or `torchrun`, each process takes its share, on its own GPU.

    Args:
        config, encoder: the layers to keep, and the encoder.
        draws: augmented views per file; 0 is enough for splits that are only evaluated.
        reference: augment with the original's errors, see train.features.augment.

    Returns:
        How many files cannot be read and have no features.

    Raises:
        EPALMError: a manifest is invalid, or the cache belongs to another configuration.
    """
    from train.data.manifest import load_manifest  # heavy imports only when they are needed
    from train.features.cache import FeatureCache
    from train.features.encoding import encode_manifest

    rank, world, _ = process()
    items = [item for manifest in manifests for item in load_manifest(manifest)]
    opened = FeatureCache.open(cache, config, recipe, draws, reference)
    report = encode_manifest(items, opened, encoder, batch, workers, rank, world, progress=rank == 0)
    part = f" (part {rank + 1} of {world})" if world > 1 else ""
    print(
        f"{report.media} files{part}: {report.encoded} views encoded, {report.present} already there. "
        f"Features are in {cache}."
    )
    return len(report.unreadable)


def features_of(arguments: argparse.Namespace) -> None:
    """Encode the splits of CONFIG; only training splits get augmented draws.

    Raises:
        EPALMError: see `run_features`; or, after encoding all others, some files cannot be read.
    """
    from tqdm import tqdm

    from epalm.encoders.load import load_encoder  # heavy imports only when they are needed
    from epalm.language_model import choose_device
    from train.settings import load_settings

    settings = load_settings(arguments.config, arguments.set)
    model, data = settings.model, settings.data
    if data.cache is None:
        raise EPALMError("The settings have no cache: set data.cache to a folder for the features.")
    if arguments.batch < 1:
        raise EPALMError(f"--batch must be at least 1, but it is {arguments.batch}.")
    device, (_, processes, local) = arguments.device or choose_device(), process()
    place = f"cuda:{local}" if device == "cuda" else device
    encoder = load_encoder(model.encoder, device=place, revision=model.encoder_revision, progress=tqdm.write)
    config = settings.encoder_config(encoder.widths)
    unreadable = 0
    trained = [Path(data.train), *(Path(more.train) for more in data.more)]
    evaluated = [Path(split) for split in (data.val, data.test) if split]
    for manifests, draws in ((trained, data.draws), (evaluated, 0)):
        unreadable += run_features(
            manifests,
            config,
            encoder,
            settings.recipe.to_dict(),
            Path(data.cache),
            draws,
            arguments.batch,
            data.workers,
            settings.reference,
        )
    if unreadable:
        problem = (
            f"{unreadable} files cannot be read and have no features (see above): repair them or remove "
            "their items from the manifests, then run this again."
        )
        if processes == 1:
            raise EPALMError(problem)
        # A process that ends in failure would have the launcher stop the others in their work.
        tqdm.write(f"train: {problem}")
