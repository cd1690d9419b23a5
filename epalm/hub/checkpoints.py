"""Convert checkpoints of the original implementation (`checkpoint_best.pth`) to adapter folders."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from epalm.adapter import Adapter
from epalm.config import AdapterConfig
from epalm.errors import EPALMError, reason
from epalm.hub.zoo import find

_PROMPT = "prompt_module.prefix_embedding."
RENAMED = {
    f"{_PROMPT}0.weight": "prompt.embedding.weight",
    f"{_PROMPT}1.weight": "prompt.mlp.0.weight",
    f"{_PROMPT}1.bias": "prompt.mlp.0.bias",
    f"{_PROMPT}3.weight": "prompt.mlp.2.weight",
    f"{_PROMPT}3.bias": "prompt.mlp.2.bias",
}


def original_name(name: str) -> str:
    """Our parameter name -> the original's."""
    return {new: old for old, new in RENAMED.items()}.get(name, name)


def read_original(path: Path) -> dict[str, Tensor]:
    """The trained tensors of an original checkpoint, under our names, in float32.

    The file is a pickle, so only plain tensors and containers are accepted (`weights_only=True`).

    Raises:
        EPALMError: the file is missing, damaged, holds other objects, or is not an eP-ALM checkpoint.
    """
    try:
        data: Any = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise EPALMError(f"There is no checkpoint at {path}.") from None
    except pickle.UnpicklingError:
        raise EPALMError(
            f"{path} is not a PyTorch checkpoint or holds more than tensors and plain containers; such "
            "pickles are never executed, so export its 'model' entry with torch.save."
        ) from None
    # Damaged files raise any of these.
    except (RuntimeError, EOFError, OSError, KeyError, IndexError, ValueError) as error:
        raise EPALMError(f"{path} cannot be read as a PyTorch checkpoint ({reason(error)}).") from None
    state = data.get("model") if isinstance(data, Mapping) else None
    if not isinstance(state, Mapping):
        raise EPALMError(f"{path} has no 'model' entry, so it is not a checkpoint of the original eP-ALM.")
    state = {k.removeprefix("module."): v for k, v in state.items()}
    kept = {RENAMED.get(k, k): v.float() for k, v in state.items() if k.startswith(("connector.", _PROMPT))}
    if not kept:
        raise EPALMError(
            f"{path} has neither a connector nor a prompt; its first keys are {list(state)[:3]}."
        )
    return kept


def adapter_from_original(state: Mapping[str, Tensor], config: AdapterConfig, source: str) -> Adapter:
    """Build an adapter from renamed tensors; EPALMError naming both sides if a tensor does not fit."""
    fitting = f"{source}, {config.lm.id} and {config.encoder.id}"
    return Adapter(config).filled(state, fitting, original_name)


def convert(checkpoint: Path, out: Path, preset: str) -> Adapter:
    """Convert an original checkpoint of the published model `preset` to the adapter folder `out`."""
    adapter = adapter_from_original(read_original(checkpoint), find(preset).config, str(checkpoint))
    adapter.save(out)
    return adapter
