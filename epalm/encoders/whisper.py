"""Sound through the encoder of a speech recogniser (Whisper, Radford et al. 2022), from transformers.

Media: (B, 80, frames) float log-mel, 100 frames per second, as the adapter's recipe makes it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool1d, gelu
from transformers.models.whisper.modeling_whisper import WhisperEncoder as Network

from epalm.encoders.base import Encoder, hub_errors
from epalm.encoders.widths import Widths

PARTS = 3  # beginning, middle and end of what can be heard
STARTER_LAYERS = 3  # the last layer turns sounds into words: instruments are told apart best after the first
AUDIBLE = 1.5  # below the loudest moment, in the units of the spectrogram: 60 decibels


class WhisperEncoder(Encoder):
    """What every layer, and the convolutions before them, make of what can be heard.

    Features, by index:
        0 to L - 1: the output of a layer through the final norm, averaged over each third of what can be
            heard; the three averages stand side by side, in order of time (width 3 D).
        L: the stem, that is the two convolutions: standard deviation and maximum of every channel over time
            (width 2 D). Instruments are told apart best here, environmental sounds in the layers after it.

    Silence before and after the sound is cut off, so that a short sound fills its thirds as a long one does,
    and costs less.
    """

    modality = "audio"

    def __init__(self, network: Network) -> None:
        width, depth = network.config.d_model, len(network.layers)
        super().__init__(network, [PARTS * width] * depth)
        self.widths = Widths([*self.widths, 2 * width], depth)

    def features(self, media: Tensor, deepest: int) -> list[Tensor]:
        each = [self.layers(sound[:, audible(sound)], deepest) for sound in media]
        return [torch.stack(of_layer) for of_layer in zip(*each, strict=True)]

    def layers(self, sound: Tensor, deepest: int) -> list[Tensor]:
        """(mel, frames) -> a (3 D,) feature of every layer, and the stem's (2 D,) if it is asked for."""
        stem = gelu(self.network.conv2(gelu(self.network.conv1(sound[None]))))  # (1, D, T), 50 per second
        hidden = stem.transpose(1, 2)
        hidden = hidden + self.network.embed_positions.weight[: hidden.shape[1]]
        features = []
        for layer in self.network.layers[: deepest + 1]:
            hidden = layer(hidden, None)
            normed = self.network.layer_norm(hidden)[0].T  # (D, T)
            features.append(adaptive_avg_pool1d(normed, PARTS).T.flatten())
        if deepest >= self.widths.layers:
            features.append(torch.cat([deviation(stem[0]), stem[0].amax(1)]))
        return features


def deviation(channels: Tensor) -> Tensor:
    """(D, T) -> (D,) standard deviation over time, 0 of a single moment."""
    return channels.std(1) if channels.shape[1] > 1 else torch.zeros_like(channels[:, 0])


def audible(sound: Tensor) -> slice:
    """(mel, frames) -> from the first to the last frame that is not 60 decibels below the loudest one."""
    peak = sound.amax(0)
    heard = (peak > peak.max() - AUDIBLE).nonzero()
    return slice(int(heard[0]), int(heard[-1]) + 1)


def load_starter(backbone: str, progress: Callable[[str], None] | None = None) -> WhisperEncoder:
    """The starter's sound backbone, without its last layer; made in the local cache on first use."""
    from epalm.hub.wheels import backbone_dir

    with hub_errors(backbone):
        network = Network.from_pretrained(backbone_dir(backbone, progress), dtype=torch.float32)
    network.layers = network.layers[:STARTER_LAYERS]
    return WhisperEncoder(network)
