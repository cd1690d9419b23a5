"""Frozen perceptual encoders: for one media tensor, one feature vector per encoder layer.

A transformer's feature of a layer is its [CLS] token after that layer, passed through the encoder's final
norm; a convolutional network's is the globally pooled output of a stage. Which layers are used is the
adapter's choice (`feature_layers`), so an encoder is shared by all adapters of its modality.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from httpx2 import HTTPError
from safetensors import SafetensorError
from torch import Tensor, nn

from epalm.config import FeatureLayer
from epalm.encoders.widths import Widths
from epalm.errors import EPALMError, reason


class Encoder(nn.Module):
    """A frozen encoder. Subclasses say how the features of its first layers are computed.

    Attributes:
        modality: "image", "video" or "audio".
        widths: width of the feature of each layer, shallowest first, then of what its own head says.
    """

    modality: str
    network: Any

    def __init__(self, network: nn.Module, widths: Sequence[int]) -> None:
        super().__init__()
        self.network = network.requires_grad_(False).eval()
        self.widths = Widths(widths)

    def train(self, mode: bool = True) -> "Encoder":
        """Stay in eval mode: a frozen encoder gives the same features while the adapter around it trains."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, media: Tensor, layers: Sequence[FeatureLayer]) -> list[Tensor]:
        """Features of the named layers.

        Args:
            media: (B, ...) as the subclass describes; moved to the encoder's device and dtype.
            layers: layer indices, negative ones counted from the last layer, or several whose features are
                put side by side; one may be named several times.

        Returns:
            One (B, D) tensor per entry of `layers`, in that order; D is the sum of the widths.

        Raises:
            EPALMError: the encoder has no such layer.
        """
        places = self.widths.places(layers)
        features = self.features(media.to(next(self.parameters())), max(map(max, places)))
        return [side_by_side(features, each) for each in places]

    def features(self, media: Tensor, deepest: int) -> list[Tensor]:
        """Features 0 to `deepest` (or more), in the order of `widths`."""
        raise NotImplementedError

    @property
    def names(self) -> list[str]:
        """What each feature is called, in the order of `widths`."""
        return [f"layer {i}" for i in range(len(self.widths))]


def side_by_side(features: Sequence[Tensor] | Mapping[int, Tensor], places: Sequence[int]) -> Tensor:
    """(B, D) of the features at these places, one after the other."""
    return features[places[0]] if len(places) == 1 else torch.cat([features[p] for p in places], dim=1)


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
