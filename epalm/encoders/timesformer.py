"""Video encoder: TimeSformer with divided space-time attention (Bertasius et al. 2021), from transformers."""

import re
from math import isqrt

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import TimesformerConfig, TimesformerModel

from epalm.encoders.base import Encoder, hub_errors

# The original's key names -> the library's. Applied in order, on whole dotted parts of a key.
RENAMES = (
    (r"^cls_token$", "embeddings.cls_token"),
    (r"^pos_embed$", "embeddings.position_embeddings"),
    (r"^time_embed$", "embeddings.time_embeddings"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
    (r"^norm\.", "layernorm."),
    (r"^blocks\.", "encoder.layer."),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"\.temporal_norm1\.", ".temporal_layernorm."),
    (r"\.attn\.qkv\.", ".attention.attention.qkv."),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.temporal_attn\.qkv\.", ".temporal_attention.attention.qkv."),
    (r"\.temporal_attn\.proj\.", ".temporal_attention.output.dense."),
    (r"\.temporal_fc\.", ".temporal_dense."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
)


class TimesformerEncoder(Encoder):
    """[CLS] after every layer, through the final layer norm. Media: (B, 3, T, H, W) float.

    Any number of frames: the stored time embeddings are resized to T by nearest neighbour, and the grid of
    position embeddings likewise where the frame size differs, both as in the original implementation.
    """

    modality = "video"

    def __init__(self, network: TimesformerModel) -> None:
        config = network.config
        super().__init__(network, [config.hidden_size] * config.num_hidden_layers)

    def features(self, media: Tensor, deepest: int) -> list[Tensor]:
        # The library's layers read the clip's shape from the config instead of from their input.
        self.network.config.num_frames = media.shape[2]
        self.network.config.image_size = media.shape[4]
        hidden = self.network.embeddings(media.transpose(1, 2))  # (B, T, 3, H, W) -> (B, 1 + H'W'T, D)
        features = []
        for layer in self.network.encoder.layer[: deepest + 1]:
            hidden = layer(hidden)[0]
            # Keeping only [CLS], not every hidden state, saves 125 MB per 16-frame clip.
            features.append(self.network.layernorm(hidden[:, 0]))  # (B, D)
        return features


def load(backbone: str, revision: str | None = None) -> TimesformerEncoder:
    """A TimeSformer from the hub or a local folder, e.g. "facebook/timesformer-base-finetuned-k600".

    Raises:
        EPALMError: it cannot be loaded.
    """
    with hub_errors(backbone):
        network = TimesformerModel.from_pretrained(backbone, revision=revision or "main", dtype=torch.float32)
    return TimesformerEncoder(network)


def convert(
    state: dict[str, Tensor], frames: int | None = None, patches: int | None = None
) -> dict[str, Tensor]:
    """The original's TimeSformer weights under the library's key names; the classifier is dropped.

    Args:
        state: state dict, with or without the prefix `model.`. Where temporal attention is absent (a file of
            an image ViT) it is copied from the spatial one, and what joins it to the network starts at zero.
        frames: resize the time embeddings to this many frames (nearest neighbour).
        patches: resize the position embeddings to this many patches (nearest in the flattened grid, as the
            original does when it loads a file).
    """
    state = {key.removeprefix("model."): value for key, value in state.items()}
    state = {key: value for key, value in state.items() if not key.startswith("head.")}
    for key, value in list(state.items()):
        for spatial, temporal in ((".attn.", ".temporal_attn."), (".norm1.", ".temporal_norm1.")):
            if spatial in key:
                state.setdefault(key.replace(spatial, temporal), value)
        if ".attn.proj." in key:
            state.setdefault(key.replace(".attn.proj.", ".temporal_fc."), torch.zeros_like(value))
    width = state["cls_token"].shape[-1]
    state.setdefault("time_embed", torch.zeros(1, frames or 8, width))
    if frames is not None:
        state["time_embed"] = resize_rows(state["time_embed"], frames)
    if patches is not None:
        cls_row, grid_rows = state["pos_embed"][:, :1], state["pos_embed"][:, 1:]
        state["pos_embed"] = torch.cat([cls_row, resize_rows(grid_rows, patches)], dim=1)
    return {rename(key): value for key, value in state.items()}


def resize_rows(table: Tensor, rows: int) -> Tensor:
    """(1, N, D) -> (1, rows, D) by nearest neighbour."""
    return F.interpolate(table.transpose(1, 2), size=rows, mode="nearest").transpose(1, 2)


def rename(key: str) -> str:
    """One key of the original (without `model.`) -> the library's key."""
    for pattern, replacement in RENAMES:
        key = re.sub(pattern, replacement, key)
    return key


def from_original(
    state: dict[str, Tensor], num_heads: int = 12, frames: int | None = None
) -> TimesformerEncoder:
    """A TimeSformer from the original's state dict; sizes are read from the tensors."""
    state = convert(state, frames)
    width, _, patch, _ = state["embeddings.patch_embeddings.projection.weight"].shape
    patches = state["embeddings.position_embeddings"].shape[1] - 1
    config = TimesformerConfig(
        image_size=isqrt(patches) * patch,
        patch_size=patch,
        num_frames=state["embeddings.time_embeddings"].shape[1],
        hidden_size=width,
        num_hidden_layers=1
        + max(int(key.split(".")[2]) for key in state if key.startswith("encoder.layer.")),
        num_attention_heads=num_heads,
        intermediate_size=state["encoder.layer.0.intermediate.dense.weight"].shape[0],
        qkv_bias="encoder.layer.0.attention.attention.qkv.bias" in state,
    )
    network = TimesformerModel(config)
    network.load_state_dict(state)
    return TimesformerEncoder(network)
