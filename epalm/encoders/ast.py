"""Audio encoder: Audio Spectrogram Transformer (Gong et al. 2021), from transformers."""

import re

import torch
from torch import Tensor
from transformers import ASTConfig, ASTModel

from epalm.encoders.base import Encoder, hub_errors

# The original's layer norms; the library's default is 1e-12.
LAYER_NORM_EPS = 1e-6

# The original's key names (without `v.`) -> the library's. Applied in order.
RENAMES = (
    (r"^cls_token$", "embeddings.cls_token"),
    (r"^dist_token$", "embeddings.distillation_token"),
    (r"^pos_embed$", "embeddings.position_embeddings"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
    (r"^norm\.", "layernorm."),
    (r"^blocks\.", "layers."),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"\.attn\.proj\.", ".attention.o_proj."),
    (r"\.attn\.", ".attention."),
)


class ASTEncoder(Encoder):
    """[CLS] after every layer, through the final layer norm. Media: (B, time, mel) float; (B, 1024, 128)
    for the published weights.
    """

    modality = "audio"

    def __init__(self, network: ASTModel) -> None:
        config = network.config
        super().__init__(network, [config.hidden_size] * config.num_hidden_layers)

    def features(self, media: Tensor, deepest: int) -> list[Tensor]:
        hidden = self.network.embeddings(media)  # (B, 2 + F'T', D)
        features = []
        for layer in self.network.layers[: deepest + 1]:
            hidden = layer(hidden)
            features.append(self.network.layernorm(hidden[:, 0]))  # (B, D); row 1, distillation, is not read
        return features


def load(backbone: str, revision: str | None = None) -> ASTEncoder:
    """An AST from the hub or a local folder, e.g. "MIT/ast-finetuned-audioset-10-10-0.4593".

    Raises:
        EPALMError: it cannot be loaded.
    """
    with hub_errors(backbone):
        network = ASTModel.from_pretrained(
            backbone, revision=revision or "main", layer_norm_eps=LAYER_NORM_EPS, dtype=torch.float32
        )
    return ASTEncoder(network)


def convert(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The original's AST weights under the library's key names; the classifiers are dropped.

    Args:
        state: keys `v.*` or `module.v.*`, with the fused qkv projections that are split here.
    """
    converted = {}
    for key, value in state.items():
        key = key.removeprefix("module.")
        if not key.startswith("v.") or key.startswith(("v.head.", "v.head_dist.")):
            continue
        key = key.removeprefix("v.")
        for pattern, replacement in RENAMES:
            key = re.sub(pattern, replacement, key)
        if ".qkv." in key:
            for part, rows in zip("qkv", value.chunk(3), strict=True):
                converted[key.replace(".qkv.", f".{part}_proj.")] = rows
        else:
            converted[key] = value
    return converted


def from_original(
    state: dict[str, Tensor],
    num_heads: int = 12,
    mel_bins: int = 128,
    frames: int = 1024,
    mel_stride: int = 10,
    frame_stride: int = 10,
) -> ASTEncoder:
    """An AST from the original's state dict for (B, frames, mel_bins) input; other sizes are read from it."""
    state = convert(state)
    width, _, patch, _ = state["embeddings.patch_embeddings.projection.weight"].shape
    config = ASTConfig(
        hidden_size=width,
        num_hidden_layers=1 + max(int(key.split(".")[1]) for key in state if key.startswith("layers.")),
        num_attention_heads=num_heads,
        intermediate_size=state["layers.0.mlp.fc1.weight"].shape[0],
        layer_norm_eps=LAYER_NORM_EPS,
        patch_size=patch,
        qkv_bias="layers.0.attention.q_proj.bias" in state,
        frequency_stride=mel_stride,
        time_stride=frame_stride,
        max_length=frames,
        num_mel_bins=mel_bins,
    )
    network = ASTModel(config)
    network.load_state_dict(state)
    return ASTEncoder(network)
