"""Frozen perceptual encoders: for one media tensor, one feature vector per encoder layer.

A transformer's feature of a layer is its [CLS] token after that layer, passed through the encoder's final
norm; a convolutional network's is the globally pooled output of a stage. Which layers are used is the
adapter's choice (`feature_layers`), so an encoder is shared by all adapters of its modality.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
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


def load_encoder(
    backbone: str | Path,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    progress: Callable[[str], None] | None = None,
    revision: str | None = None,
    loaded: Mapping[str, Encoder] | None = None,
) -> Encoder:
    """Load a frozen encoder by its id.

    Args:
        backbone: "starter/efficientnet-lite2" or "starter/whisper-tiny.en"; "timm/NAME" or a bare timm name
            (image); a hub id of a TimeSformer (video) or AST (audio); a local folder in the format of any of
            those; a weight file of the original TimeSformer (.pyth) or AST (.pth); or "frames/" and the id
            of an image encoder, which then sees every frame of a video.
        dtype: of the weights and features.
        progress: told what happens while a starter backbone is made on first use.
        revision: commit of a hub repository; None takes its newest one.
        loaded: encoders by id that are in memory; an image encoder for frames is taken from there.

    Raises:
        EPALMError: no such backbone, one that is no supported encoder, or a failed download.
    """
    from epalm.encoders import ast, frames, recorded, timesformer, timm_image, whisper

    name, path = str(backbone), Path(backbone)
    if name.startswith(frames.PREFIX):
        image = name.removeprefix(frames.PREFIX)
        seen = (loaded or {}).get(image) or load_encoder(image, dtype, device, progress, revision)
        if not isinstance(seen, timm_image.TimmImageEncoder):
            raise EPALMError(f"{name} needs an image encoder behind {frames.PREFIX}, but {image} is none.")
        return frames.FrameEncoder(seen)
    if name == "starter/whisper-tiny.en":
        encoder: Encoder = whisper.load_starter(name, progress)
    elif name.startswith("starter/"):
        encoder = timm_image.load_starter(name, progress)
    elif path.is_file():
        encoder = recorded.encoder_from_file(path)
    elif (kind := model_type(name, revision)) == "timm":
        encoder = timm_image.load(name, revision)
    elif kind == "timesformer":
        encoder = timesformer.load(name, revision)
    elif kind == "audio-spectrogram-transformer":
        encoder = ast.load(name, revision)
    else:
        raise EPALMError(
            f"{name} is a model of type {kind!r}, which is no supported encoder: use a timm model for "
            "images, a TimeSformer for video or an AST for audio."
        )
    return encoder.to(device=device, dtype=dtype)


def model_type(backbone: str, revision: str | None = None) -> str:
    """The library a backbone is from: "timm", or else the `model_type` in a transformers model's config.json.

    Raises:
        EPALMError: neither a folder with a config.json nor a model that the hub knows.
    """
    folder = Path(backbone)
    if folder.is_dir():
        try:
            config = json.loads((folder / "config.json").read_text())
        except (OSError, ValueError) as error:
            raise EPALMError(f"The backbone folder {folder} has no readable config.json: {error}.") from error
        return "timm" if "architecture" in config else config.get("model_type", "unknown")
    if backbone.startswith("timm/") or "/" not in backbone:
        return "timm"
    from transformers import AutoConfig

    with hub_errors(backbone):
        return AutoConfig.from_pretrained(backbone, revision=revision).model_type


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
