"""Where the frozen language model comes from, on which device it runs and in which precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from httpx2 import HTTPError
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from epalm.config import LMConfig
from epalm.cpu import quantise
from epalm.errors import EPALMError, reason
from epalm.families import family_of
from epalm.hub.wheels import backbone_dir

# What the library raises if files are missing, truncated or not what they seem, or the network fails.
LOADING = (
    OSError,
    ValueError,
    RuntimeError,
    KeyError,
    TypeError,
    AttributeError,
    SafetensorError,
    HTTPError,
)
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def choose_device() -> str:
    """The accelerator if there is one, else the CPU."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def choose_dtype(device: str) -> tuple[torch.dtype, str]:
    """A dtype for a device, and a sentence that says why."""
    if device.startswith("cuda"):
        if torch.cuda.get_device_capability(device)[0] >= 8:
            return (
                torch.bfloat16,
                "bfloat16, because this GPU computes in it natively and it cannot overflow.",
            )
        return torch.float16, "float16, because this GPU has no native bfloat16."
    return torch.float32, f"float32, because half precision on '{device}' is slow or lacks operations."


def computing(dtype: torch.dtype) -> torch.dtype:
    """In which precision numbers are computed where weights are stored in this one."""
    return torch.float32 if dtype == torch.int8 else dtype


def load_lm(
    config: LMConfig,
    device: str,
    dtype: torch.dtype,
    device_map: str | dict | None = None,
    progress: Callable[[str], None] | None = None,
    instead: str | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The frozen LM and its tokenizer.

    Args:
        config: which LM, and the sizes it must have.
        dtype: int8 rounds the weights, on a CPU; everything else is computed in float32 then.
        device_map: as in `transformers`, for LMs that need several devices; replaces `device`.
        instead: id or folder of an LM to load in the place of `config.id`; it must have the same sizes.
    Raises:
        EPALMError: it cannot be found, fetched or read, or it is another model than the adapter's.
    """
    int8 = dtype == torch.int8
    if int8 and (device != "cpu" or device_map is not None):
        raise EPALMError(f"int8 weights are for a CPU; on {device_map or device} use float16 or bfloat16.")
    source = name = instead or config.id
    revision = None if instead else config.revision
    if source.startswith("starter/"):
        source = str(backbone_dir(source, progress))
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
        lm = AutoModelForCausalLM.from_pretrained(
            source,
            revision=revision,
            dtype=computing(dtype),
            device_map=device_map,
            attn_implementation="sdpa",
        )
    except LOADING as error:
        raise EPALMError(
            f"The language model {name} could not be loaded; check its name, its files "
            f"and the network ({reason(error)})."
        ) from error
    check_lm(lm, config)
    lm.requires_grad_(False).eval()
    if device_map is None:
        lm = cast(Any, lm).to(device)
    if int8:
        quantise(lm, steps_only=True)
    return lm, tokenizer


def check_lm(lm: PreTrainedModel, config: LMConfig) -> None:
    """Refuse an LM whose sizes are not those the adapter was trained for; EPALMError names both sides."""
    family = family_of(lm)
    name = lm.config.name_or_path or "the given language model"
    found = _sizes(lm.config.model_type, lm.config.hidden_size, family.embed_size(lm), len(family.layers(lm)))
    wanted = _sizes(config.model_type, config.hidden_size, config.embed_size, config.num_layers)
    if found != wanted:
        raise EPALMError(f"The adapter was trained for {config.id} ({wanted}), but {name} is {found}.")


def _sizes(model_type: str, hidden: int, embed: int, layers: int) -> str:
    return f"type {model_type}, hidden size {hidden}, embedding size {embed}, {layers} layers"
