"""Where an encoder looked for an answer: a map over the picture, each frame, or the spectrogram.

The map is the gradient of the answer's log-probability with respect to the encoder's last feature map, times
that map, summed over channels (Selvaraju et al. 2017, Draelos and Carin 2021; the two agree where positions
are averaged). The gradient is averaged while the map grows from nothing to all of it (integrated gradients,
Sundararajan et al. 2017), because a gradient vanishes where the encoder is sure: it is as sure without a part
of the map. Positive values support the answer, negative values count against it; their sum is about what the
answer gained by the map.

The last feature map is the last tensor that still has positions:

    convolutional network   the input of its global pooling                         (C, h, w)
    ViT, AST, TimeSformer   the input of the last block's attention                 (patches, D)
    Whisper                 the normalised output of every layer, and of the stem   (T, D)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn

from epalm.config import FeatureLayer
from epalm.encoders.ast import ASTEncoder
from epalm.encoders.base import Encoder, side_by_side
from epalm.encoders.frames import FrameEncoder
from epalm.encoders.timesformer import TimesformerEncoder
from epalm.encoders.timm_image import TimmImageEncoder
from epalm.encoders.whisper import WhisperEncoder, audible
from epalm.errors import EPALMError

Values = Callable[[Tensor, Tensor], Tensor]  # (values of one map without channels, media) -> (F, h, w)


@dataclass(frozen=True)
class Watched:
    """The module of an encoder whose input or output is its last feature map.

    Attributes:
        module: the feature map is its input if `before`, otherwise its output.
        channels: the channel dimension of the feature map.
        layout: a map without channels, and the media -> (F, h, w): frames (1 for a picture or a sound), rows
            from the top (for sounds: mel bands from the lowest), columns from the left.
        attends: the feature map -> the attention that [CLS] gives to each position, without channels; None
            for networks without [CLS].
    """

    module: nn.Module
    before: bool
    channels: int
    layout: Values
    attends: Callable[[Tensor], Tensor] | None = None


def watched(encoder: Encoder, deepest: int) -> list[Watched]:
    """The modules to watch in an encoder that is read up to layer `deepest`; usually one.

    Raises:
        EPALMError: the feature map of this encoder is unknown.
    """
    network = encoder.network
    if isinstance(encoder, WhisperEncoder):
        layers = Watched(network.layer_norm, False, -1, _over_time)
        stem = Watched(network.conv2, False, 1, _over_time)  # the layers' own leaves cut its gradient
        return [layers, stem]
    if isinstance(encoder, ASTEncoder):
        layer = network.layers[deepest]
        attention = layer.attention

        def heads(values: Tensor) -> tuple[Tensor, Tensor, float]:
            split = (*values.shape[:2], attention.num_attention_heads, -1)
            query = attention.q_proj(values).view(split).transpose(1, 2)  # (1, heads, N, d)
            key = attention.k_proj(values).view(split).transpose(1, 2)
            return query, key, attention.scaling

        patches = _patches_of_sound(network.config)
        return [Watched(layer.layernorm_before, False, -1, patches, _from_cls(heads))]
    if isinstance(encoder, TimesformerEncoder):
        layer = network.encoder.layer[deepest]
        weights = _from_cls(_fused(layer.attention.attention))
        return [Watched(layer.layernorm_before, False, -1, _square_patches(1), weights)]
    if isinstance(encoder, TimmImageEncoder) and encoder.has_cls:
        block = network.blocks[deepest]
        if isinstance(getattr(block, "norm1", None), nn.Module):
            attends: Callable[[Tensor], Tensor] | None = None
            if hasattr(getattr(block, "attn", None), "qkv") and hasattr(block.attn, "scale"):
                attends = _from_cls(_fused(block.attn))
            prefix = getattr(network, "num_prefix_tokens", 1)
            return [Watched(block.norm1, False, -1, _square_patches(prefix), attends)]
    elif isinstance(encoder, TimmImageEncoder | FrameEncoder):
        pooling = [m for name, m in network.named_modules() if name.split(".")[-1] == "global_pool"]
        if pooling:
            return [Watched(pooling[0], True, 1, lambda values, media: values)]
    raise EPALMError(
        f"The last feature map of {type(network).__name__} is unknown, so where the encoder looked cannot be "
        "shown."
    )


@contextmanager
def maps_of(parts: Sequence[Watched], share: float = 1.0) -> Iterator[list[tuple[Watched, Tensor]]]:
    """Collect the feature maps of a forward pass and make them leaves that receive gradients.

    Forward passes of other threads through the same encoder are not affected.

    Args:
        share: the pass continues with this share of each map.
    """
    seen: list[tuple[Watched, Tensor]] = []
    here = get_ident()

    def leaf(part: Watched, values: Tensor) -> Tensor:
        if get_ident() != here:
            return values
        seen.append((part, (share * values.detach()).requires_grad_()))
        return seen[-1][1]

    with ExitStack() as hooks:
        for part in parts:
            if part.before:
                handle = part.module.register_forward_pre_hook(
                    lambda _module, args, part=part: (leaf(part, args[0]), *args[1:])
                )
            else:
                handle = part.module.register_forward_hook(
                    lambda _module, _args, output, part=part: leaf(part, output)
                )
            hooks.callback(handle.remove)
        yield seen


@dataclass(frozen=True)
class Looked:
    """Where an encoder looked: (F, h, w) maps on the CPU, in float32."""

    relevance: Tensor  # gradient times map, summed over channels
    attention: Tensor | None  # share of [CLS]'s attention in the last block, averaged over heads


def look(
    encoder: Encoder,
    media: Tensor,
    layers: Sequence[FeatureLayer],
    log_probability: Callable[[list[Tensor]], Tensor],
    steps: int = 1,
) -> Looked:
    """Where an encoder looked for an answer.

    Args:
        media: (1, …), the encoder's input.
        layers: the layers whose features the adapter reads.
        log_probability: differentiable function from the features (1, D_j) of those layers to the answer's
            log-probability.
        steps: the gradient is averaged over this many shares of the feature map, the last one all of it. One
            step takes the gradient at the map itself.
    """
    places = encoder.widths.places(layers)
    deepest = max(map(max, places))
    parts = watched(encoder, deepest)
    sums: list[Tensor] = []  # of the gradients, as wide as the maps
    for step in range(1, steps + 1):
        with torch.enable_grad(), maps_of(parts, step / steps) as maps:
            features = encoder.features(media.to(next(encoder.parameters())), deepest)
            total = log_probability([side_by_side(features, each) for each in places])
        if not maps:
            raise EPALMError(f"{type(encoder.network).__name__} produced no feature map.")
        sums = sums or [torch.zeros_like(values, dtype=torch.float32) for _, values in maps]
        gradients: Sequence[Tensor | None] = [None] * len(maps)
        if total.requires_grad:
            gradients = torch.autograd.grad(total, [values for _, values in maps], allow_unused=True)
        for whole, gradient in zip(sums, gradients, strict=True):
            if gradient is not None:  # otherwise none of the features read depends on it
                whole += gradient
    relevance, attention = 0 * laid_out(*maps[0], media), None
    for (part, values), whole in zip(maps, sums, strict=True):  # the last pass had all of each map
        relevance += laid_out(part, values.detach().float() * whole / steps, media)
        if part.attends is not None:
            with torch.no_grad():
                attention = part.layout(part.attends(values), media).float().cpu()
    return Looked(relevance, attention)


def laid_out(part: Watched, values: Tensor, media: Tensor) -> Tensor:
    """Values of a feature map, summed over channels, as (F, h, w) on the CPU, in float32."""
    return part.layout(values.detach().float().sum(part.channels), media).cpu()


# ---------------------------------------------------------------- layouts


def _square_patches(prefix: int) -> Values:
    """(F, prefix + h·w) of square pictures -> (F, h, w)."""

    def layout(values: Tensor, media: Tensor) -> Tensor:
        height, width = media.shape[-2:]
        places = values.shape[1] - prefix
        rows = round((places * height / width) ** 0.5)
        return values[:, prefix:].unflatten(1, (rows, places // rows))

    return layout


def _patches_of_sound(config: Any) -> Values:
    """(1, 2 + bands·steps) of an AST -> (1, bands, steps)."""
    bands = (config.num_mel_bins - config.patch_size) // config.frequency_stride + 1
    return lambda values, media: values[:, 2:].unflatten(1, (bands, -1))


def _over_time(values: Tensor, media: Tensor) -> Tensor:
    """(1, T) over the audible part of a sound -> (1, 1, steps) over all of it; 0 where it is silent."""
    heard = audible(media[0])
    stretched = nn.functional.interpolate(values[None], size=heard.stop - heard.start, mode="linear")
    return nn.functional.pad(stretched, (heard.start, media.shape[-1] - heard.stop))


# ---------------------------------------------------------------- attention of [CLS]


def _fused(attention: Any) -> Callable[[Tensor], tuple[Tensor, Tensor, float]]:
    """Queries and keys of an attention with one fused qkv projection, as in timm and TimeSformer."""

    def heads(values: Tensor) -> tuple[Tensor, Tensor, float]:
        split = attention.qkv(values).unflatten(2, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
        query, key = split[0], split[1]  # (F, heads, N, d)
        if hasattr(attention, "q_norm"):
            query, key = attention.q_norm(query), attention.k_norm(key)
        return query, key, attention.scale

    return heads


def _from_cls(heads: Callable[[Tensor], tuple[Tensor, Tensor, float]]) -> Callable[[Tensor], Tensor]:
    """Normalised input of an attention (F, N, D) -> (F, N): row 0 of its weights, averaged over heads."""

    def attends(values: Tensor) -> Tensor:
        query, key, scale = heads(values)
        weights = (query[:, :, :1] @ key.transpose(-2, -1) * scale).softmax(-1)  # (F, heads, 1, N)
        return weights[:, :, 0].mean(1)

    return attends
