"""Frozen perceptual encoders: for one media tensor, one feature vector per encoder layer.

A transformer's feature of a layer is its [CLS] token after that layer, passed through the encoder's final
norm; a convolutional network's is the globally pooled output of a stage. Which layers are used is the
adapter's choice (`feature_layers`), so an encoder is shared by all adapters of its modality.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from httpx import HTTPError
from safetensors import SafetensorError
from torch import Tensor, nn

from epalm.errors import EPALMError, reason


class Encoder(nn.Module):
    """A frozen encoder. Subclasses say how the features of its first layers are computed.

    Attributes:
        modality: "image", "video" or "audio".
        widths: width of the feature of each layer, shallowest first.
    """

    modality: str
    network: Any

    def __init__(self, network: nn.Module, widths: Sequence[int]) -> None:
        super().__init__()
        self.network = network.requires_grad_(False).eval()
        self.widths = tuple(widths)

    def train(self, mode: bool = True) -> "Encoder":
        """Stay in eval mode: a frozen encoder gives the same features while the adapter around it trains."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, media: Tensor, layers: Sequence[int]) -> list[Tensor]:
        """Features of the named layers.

        Args:
            media: (B, ...) as the subclass describes; moved to the encoder's device and dtype.
            layers: layer indices, negative ones counted from the end; one may be named several times.

        Returns:
            One (B, widths[l]) tensor per entry of `layers`, in that order.

        Raises:
            EPALMError: the encoder has no such layer.
        """
        depth = len(self.widths)
        for layer in layers:
            if not -depth <= layer < depth:
                raise EPALMError(
                    f"The adapter asks for encoder layer {layer}, but this encoder has {depth} layers: "
                    "use the encoder named in the adapter's config.json."
                )
        indices = [layer % depth for layer in layers]
        features = self.features(media.to(next(self.parameters())), max(indices))
        return [features[index] for index in indices]

    def features(self, media: Tensor, deepest: int) -> list[Tensor]:
        """Features of layers 0 to `deepest` (or more), shallowest first."""
        raise NotImplementedError


@contextmanager
def hub_errors(backbone: str) -> Iterator[None]:
    """Turn a failing download or load of a backbone into one sentence."""
    try:
        yield
    except (OSError, RuntimeError, ValueError, HTTPError, SafetensorError) as error:
        raise EPALMError(
            f"The encoder {backbone} could not be loaded; check its name, its files and the network "
            f"({reason(error)})."
        ) from error
