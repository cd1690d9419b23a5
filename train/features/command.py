"""`python -m train features`: encode the media of a data set once; what is kept, see train.features.cache."""

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
    """This process' number among all, how many there are, and its number on this machine.

    accelerate and torchrun set them; otherwise this process is alone.
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
    """Encode the media of manifests into a cache; goes on where an earlier call stopped.

    Started by `accelerate launch` or `torchrun`, each process takes its part, on its own GPU.

    Args:
        config, encoder: which layers to keep, and the encoder that has them.
        draws: augmented views per medium; 0 is enough for splits that are only evaluated.
        reference: augment with the original's errors, see train.features.augment.

    Returns:
        How many media cannot be read and have no features.

    Raises:
        EPALMError: a manifest is wrong, or the cache belongs to another configuration.
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
        f"{report.media} media{part}: {report.encoded} views encoded, {report.present} were there. "
        f"Features are in {cache}."
    )
    return len(report.unreadable)


def features_of(arguments: argparse.Namespace) -> None:
    """Encode the splits that CONFIG names; only the training split gets augmented draws.

    Raises:
        EPALMError: as `run_features`, or, after everything else was encoded, some media cannot be read.
    """
    from tqdm import tqdm

    from epalm.encoders.load import load_encoder  # heavy imports only when they are needed
    from epalm.language_model import choose_device
    from train.settings import load_settings

    settings = load_settings(arguments.config, arguments.set)
    model, data = settings.model, settings.data
    if data.cache is None:
        raise EPALMError("The settings name no cache: set data.cache to a folder for the features.")
    if arguments.batch < 1:
        raise EPALMError(f"--batch must be at least 1, but it is {arguments.batch}.")
    device, (_, _, local) = arguments.device or choose_device(), process()
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
        raise EPALMError(
            f"{unreadable} media cannot be read and have no features (see above): repair them, or take their "
            "items out of the manifests, and run this again."
        )
