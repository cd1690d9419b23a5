"""The parts of a training: frozen LM, adapter, and where an item's features come from."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from torch import Tensor
from transformers import AutoConfig, PreTrainedTokenizerBase
from transformers.models.timesformer.modeling_timesformer import TimesformerDropPath

from epalm.adapter import Adapter
from epalm.config import AdapterConfig, LMConfig
from epalm.decoding import InjectedLM
from epalm.encoders.base import Encoder
from epalm.encoders.load import load_encoder
from epalm.encoders.timesformer import TimesformerEncoder
from epalm.errors import EPALMError, reason
from epalm.hub.wheels import backbone_dir
from epalm.language_model import load_lm
from train.data.manifest import Item, load_manifest
from train.features.augment import augmented, open_augmented
from train.features.cache import FeatureCache, content_key
from train.features.encoding import seed_of
from train.settings import Settings

DROP_PATH = 0.1  # of the original's TimeSformer: from 0 in the first layer to this in the last one
PRECISION = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class Features:
    """Encoder features of items: from the cache, or computed on the spot.

    Args:
        encoder: None where everything is in the cache.
    """

    def __init__(
        self, settings: Settings, config: AdapterConfig, cache: FeatureCache | None, encoder: Encoder | None
    ):
        self.cache, self.encoder = cache, encoder
        self.layers = config.encoder.feature_layers
        self.recipe, self.reference = settings.recipe, settings.reference
        self.pool = ThreadPoolExecutor(settings.data.workers)
        self.key = functools.cache(content_key)  # a file is read for its key once, not in every epoch
        self.drop_paths: list[TimesformerDropPath] = []
        if settings.reference and isinstance(encoder, TimesformerEncoder):
            self.drop_paths = stochastic_depth(encoder)

    def train(self, mode: bool) -> None:
        """Whether a TimeSformer drops paths, as the original's does in training; only in `reference` mode."""
        for drop_path in self.drop_paths:
            drop_path.train(mode)

    def __call__(self, items: Sequence[Item], draws: Sequence[int]) -> list[Tensor]:
        """One (B, D_j) tensor per injected hidden state.

        Args:
            draws: 0 for the medium as evaluation sees it, 1… for an augmented view, one per item.
        Raises:
            EPALMError: a medium cannot be read, or is not in the cache.
        """
        if self.cache is not None:
            return self.cache.batch([(self.cache.key(i.media), d) for i, d in zip(items, draws, strict=True)])
        assert self.encoder is not None
        media = torch.stack(list(self.pool.map(self.read, items, draws)))
        return self.encoder(media, self.layers)

    def read(self, item: Item, draw: int) -> Tensor:
        """The media tensor of an item."""
        if draw == 0:
            return self.recipe(self.recipe.open(item.media))
        seed = seed_of(self.key(item.media), draw)  # the view that a cache would hold
        return augmented(self.recipe, open_augmented(self.recipe, item.media, seed), seed, self.reference)


def stochastic_depth(encoder: TimesformerEncoder) -> list[TimesformerDropPath]:
    """Give the layers of a TimeSformer the original's drop paths, switched off."""
    layers = encoder.network.encoder.layer
    rates = torch.linspace(0, DROP_PATH, len(layers)).tolist()
    for layer, rate in zip(layers, rates, strict=True):
        layer.drop_path = TimesformerDropPath(rate).eval()
    return [layer.drop_path for layer in layers]


def lm_config(settings: Settings) -> LMConfig:
    """The LM that the settings name, with its sizes read from its own config.

    Raises:
        EPALMError: it cannot be found or read.
    """
    name = settings.model.lm
    source = str(backbone_dir(name, say)) if name.startswith("starter/") else name
    try:
        config = AutoConfig.from_pretrained(source, revision=settings.model.lm_revision)
    except (OSError, ValueError) as error:
        raise EPALMError(
            f"The language model {name} could not be found; check its name and the network ({reason(error)})."
        ) from error
    embed = getattr(config, "word_embed_proj_dim", config.hidden_size)
    return LMConfig(
        name,
        config.hidden_size,
        embed,
        config.num_hidden_layers,
        config.model_type,
        settings.model.lm_revision,
    )


def load_frozen_lm(
    settings: Settings, config: LMConfig, device: str
) -> tuple[InjectedLM, PreTrainedTokenizerBase]:
    """The LM in the precision of the training, and its tokenizer."""
    lm, tokenizer = load_lm(config, device, PRECISION[settings.optim.precision], progress=say)
    if device == "cpu":
        lm.set_attn_implementation("eager")  # its backward pass is faster than that of the fused one here
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return InjectedLM(lm), tokenizer


def load_frozen_encoder(settings: Settings, device: str) -> Encoder:
    """The encoder, in float32."""
    model = settings.model
    return load_encoder(model.encoder, torch.float32, device, say, model.encoder_revision)


def new_adapter(
    settings: Settings, config: AdapterConfig, lm: InjectedLM, tokenizer: PreTrainedTokenizerBase
) -> Adapter:
    """An untrained adapter; the same for the same seed.

    With `prompt_text` the soft prompt begins with the embeddings of its words (as far as they fit).
    """
    torch.manual_seed(settings.optim.seed)
    adapter = Adapter(config)
    words = tokenizer(settings.model.prompt_text or "", add_special_tokens=False)["input_ids"]
    words = words[: settings.model.prompt_length]
    if settings.model.prompt_text and adapter.prompt is not None:
        embedded = lm.lm.get_input_embeddings()(torch.tensor(words, device=lm.device))
        adapter.prompt.embedding.weight.data[: len(words)] = embedded.float().cpu()
    return adapter


def feature_source(
    settings: Settings, config: AdapterConfig, splits: dict[str, Sequence[Item]], encoder: Encoder | None
) -> Features:
    """Where the features of these splits come from; refuses a cache that lacks some of them.

    Args:
        splits: by name; only "train" needs augmented draws.
        encoder: used where the settings name no cache.
    """
    data = settings.data
    if data.cache is None:
        return Features(settings, config, None, encoder)
    for split, items in splits.items():
        draws = data.draws if split == "train" else 0
        cache = FeatureCache.open(Path(data.cache), config.encoder, config.recipe, draws, settings.reference)
        if absent := cache.missing(item.media for item in items):
            raise EPALMError(
                f"The cache {data.cache} lacks the features of {len(absent)} media, such as {absent[0]}: run "
                "`python -m train features` with the same settings first, or set data.cache to null."
            )
    return Features(settings, config, cache, None)


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Keep a run folder to this command, which may have several processes.

    Raises:
        EPALMError: another command works in it, or it cannot be written.
    """
    if int(os.environ.get("RANK", "0")):  # the first process holds it for all
        yield
        return
    lock = FileLock(out / ".lock")
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise EPALMError(
            f"Another command is working in {out}: wait until it is done, or choose another folder with "
            "--set out=FOLDER."
        ) from error
    except OSError as error:
        raise EPALMError(f"The run folder {out} cannot be written ({error.strerror}).") from error
    try:
        yield
    finally:
        lock.release()


def memory_full(setting: str, value: int, more: str = "") -> EPALMError:
    """What to say when the device's memory is full."""
    return EPALMError(f"The device's memory is full with {setting}={value}: halve it{more}.")


def split_items(settings: Settings, split: str) -> list[Item]:
    """The items of the split named "train", "val" or "test"."""
    path = getattr(settings.data, split)
    if path is None:
        raise EPALMError(f"The settings name no {split} split: set data.{split} to its manifest.")
    return load_manifest(Path(path))


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
