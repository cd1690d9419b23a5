"""The frozen models of a training, and its initial adapter."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedTokenizerBase

from epalm.adapter import Adapter, SoftPrompt
from epalm.config import AdapterConfig, LMConfig
from epalm.decoding import InjectedLM
from epalm.encoders.base import Encoder
from epalm.encoders.load import load_encoder
from epalm.errors import EPALMError, reason
from epalm.hub.locate import adapter_folders, locate
from epalm.hub.wheels import backbone_dir
from epalm.language_model import load_lm
from train.settings import Settings

PRECISION = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def lm_config(settings: Settings) -> LMConfig:
    """The LM named in the settings, with sizes from its own config.

    Raises:
        EPALMError: it cannot be found or read.
    """
    name = settings.model.lm
    source = str(backbone_dir(name, say)) if name.startswith("starter/") else name
    try:
        config = AutoConfig.from_pretrained(source, revision=settings.model.lm_revision)
    except (OSError, ValueError) as error:
        raise EPALMError(
            f"The language model {name} was not found; check its name and the network ({reason(error)})."
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
    """The LM in the training's precision, and its tokenizer."""
    lm, tokenizer = load_lm(config, device, PRECISION[settings.optim.precision], progress=say)
    if device == "cpu":
        lm.set_attn_implementation("eager")  # its backward pass is faster than the fused one's here
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
    """An untrained adapter; it depends only on the seed.

    If `prompt_text` is set, the soft prompt starts as the embeddings of its words, as far as they fit. A deep
    prompt is counted in units of how much larger the LM's states are in a layer than these rows.
    """
    torch.manual_seed(settings.optim.seed)
    adapter = Adapter(config)
    words = tokenizer(settings.model.prompt_text or "", add_special_tokens=False)["input_ids"]
    words = words[: settings.model.prompt_length]
    if settings.model.prompt_text and adapter.prompt is not None:
        embedded = lm.base.get_input_embeddings()(torch.tensor(words, device=lm.device))
        adapter.prompt.embedding.weight.data[: len(words)] = embedded.float().cpu()
    if adapter.prompt is not None and config.deep_layers:
        adapter.prompt.deep_unit = sizes_of_states(lm, adapter.prompt)[-config.deep_layers :]
    return adapter


@torch.no_grad()
def sizes_of_states(lm: InjectedLM, prompt: SoftPrompt) -> Tensor:
    """How much larger the LM's states of a prompt are before each of its N layers than its rows, (N,).

    The size of a row is its root mean square. Medians over the rows are compared; the first row, which
    many LMs blow up, is left out where there are others.
    """
    rows = prompt.embedding.weight
    rows = rows if prompt.mlp is None else prompt.mlp(rows)
    nothing = torch.zeros(1, 0, dtype=torch.long, device=lm.device)
    entering: list[Tensor] = []

    def note(layer: nn.Module, given: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        entering.append(given[0] if given else kwargs["hidden_states"])

    hooks = [layer.register_forward_pre_hook(note, with_kwargs=True) for layer in lm.family.layers(lm.base)]
    try:
        lm(nothing, prompt=rows[None].to(lm.device, lm.base.dtype))
    finally:
        for hook in hooks:
            hook.remove()
    first = min(1, len(rows) - 1)
    sizes = [
        state[0, first:].float().pow(2).mean(-1).sqrt().median().cpu() for state in (rows[None], *entering)
    ]
    return torch.stack(sizes[1:]) / sizes[0]


def start_from(adapter: Adapter, name: str) -> str:
    """Initialise an adapter from another one, as far as shapes match; returns a sentence for the log.

    Args:
        name: an adapter folder, a run folder (uses last/), a hub id, a published model,
            "starter/image-caption".
    Raises:
        EPALMError: there is no such adapter, or it belongs to another LM or encoder.
    """
    folder = adapter_folder(name)
    other, own = Adapter.load(folder), adapter.config
    for what, theirs, ours in (
        ("language model", other.config.lm.id, own.lm.id),
        ("encoder", other.config.encoder.id, own.encoder.id),
    ):
        if theirs != ours:
            raise EPALMError(
                f"init_from: {name} was trained with the {what} {theirs}, but this training uses {ours}."
            )
    learned, new = other.state_dict(), adapter.state_dict()
    same = {key: value for key, value in learned.items() if key in new and new[key].shape == value.shape}
    if not same:
        raise EPALMError(f"init_from: no tensor of {name} has the shape that this training needs.")
    adapter.load_state_dict(same, strict=False)
    fresh = sorted({key.rpartition(".")[0] for key in new if key not in same})
    return f"Starting from {name}" + (f"; newly initialised: {', '.join(fresh)}." if fresh else ".")


def adapter_folder(name: str) -> Path:
    """The folder of the single adapter that a name refers to.

    Raises:
        EPALMError: there is none, or several.
    """
    if (Path(name) / "last").is_dir():  # a run folder
        return Path(name) / "last"
    model, _, part = name.partition("/") if name.startswith("starter/") else (name, "", "")
    folders = adapter_folders(locate(model, None, None, say))
    if part in folders:
        return folders[part]
    if len(folders) == 1 and not part:
        return next(iter(folders.values()))
    raise EPALMError(
        f"{name} has several adapters: name one of {', '.join(f'{model}/{n}' for n in folders)}."
    )


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
