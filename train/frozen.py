"""The frozen parts of a training, and the adapter that it begins with."""

from __future__ import annotations

import sys

import torch
from transformers import AutoConfig, PreTrainedTokenizerBase

from epalm.adapter import Adapter
from epalm.config import AdapterConfig, LMConfig
from epalm.decoding import InjectedLM
from epalm.encoders.base import Encoder
from epalm.encoders.load import load_encoder
from epalm.errors import EPALMError, reason
from epalm.hub.wheels import backbone_dir
from epalm.language_model import load_lm
from train.settings import Settings

PRECISION = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


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


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
