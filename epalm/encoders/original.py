"""Encoders from weights in the original implementation's key names: recorded cases and released files."""

from math import isqrt
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from epalm.encoders import ast, timesformer, timm_image
from epalm.encoders.base import Encoder
from epalm.errors import EPALMError


def encoder_from_recorded(config: dict[str, Any], state: dict[str, Tensor]) -> Encoder:
    """The encoder of a recorded case.

    Args:
        config: the case's "encoder" entry: `type` ("vit", "timesformer" or "ast") and the sizes that tensor
            shapes do not tell; the original's defaults stand for those that are not stated.
        state: the case's encoder weights.

    Raises:
        EPALMError: unknown type, or weights that do not fit it.
    """
    kind, num_heads = config.get("type"), config.get("num_heads", 12)
    try:
        if kind == "vit":
            patch = state["patch_embed.proj.weight"].shape[-1]
            square = isqrt(state["pos_embed"].shape[1] - 1) * patch
            size = config.get("img_size", square)
            return timm_image.from_original(state, num_heads, size if isinstance(size, int) else tuple(size))
        if kind == "timesformer":
            return timesformer.from_original(state, num_heads)
        if kind == "ast":
            return ast.from_original(
                state,
                num_heads,
                mel_bins=config.get("input_fdim", 128),
                frames=config.get("input_tdim", 1024),
                mel_stride=config.get("fstride", 10),
                frame_stride=config.get("tstride", 10),
            )
    except (KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise EPALMError(
            f"The weights do not make a {kind} encoder of the stated sizes ({reason})."
        ) from error
    raise EPALMError(f"{kind!r} is not an encoder type of a recorded case: use vit, timesformer or ast.")


def encoder_from_file(path: Path) -> Encoder:
    """The encoder in a released weight file: TimeSformer's .pyth or AST's AudioSet .pth.

    Raises:
        EPALMError: the file cannot be read or holds something else.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's unpickler raises many types on bytes that are not a pickle
        raise EPALMError(f"{path} is not a complete PyTorch weight file.") from error
    state = content.get("model_state", content) if isinstance(content, dict) else {}
    for kind, key in (("ast", "v.dist_token"), ("timesformer", "time_embed")):
        if any(name.endswith(key) for name in state):
            return encoder_from_recorded({"type": kind}, state)
    raise EPALMError(f"{path} holds neither TimeSformer nor AST weights of the original implementation.")
