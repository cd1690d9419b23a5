"""Video through an image encoder: every frame is seen on its own, as well as what changes between frames.

Media: (B, 3, T, H, W) float, as the adapter's video recipe makes it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from epalm.encoders.base import Encoder
from epalm.encoders.timm_image import TimmImageEncoder
from epalm.encoders.widths import Widths
from epalm.errors import EPALMError

PREFIX = "frames/"  # of the ids: "frames/starter/efficientnet-lite2"
FRAMES = 8  # of a clip
GRID = 5  # places per side at which change is measured
STAGE = 3  # of the image encoder, whose feature map is compared: finer than the last one


class FrameEncoder(Encoder):
    """What a clip shows and how it changes, from a convolutional image encoder that knows no time.

    Features, by index:
        0: the image encoder's pooled feature, averaged over the frames (width of the image encoder);
        1: change between consecutive frames: for each of 7 steps, how far the feature map moved at each of
           5×5 places, relative to its mean length (width 175). A linear map of it can tell where things
           move, grow or appear, whatever they are;
        2: the probabilities of the image encoder's classes, averaged over the frames, if it has a classifier.

    Args:
        image: the image encoder, shared with the adapters for images.
    """

    modality = "video"

    def __init__(self, image: TimmImageEncoder) -> None:
        seen, change = image.widths[image.widths.place(-1)], GRID * GRID * (FRAMES - 1)
        super().__init__(image.network, [seen, change])
        self.widths = Widths([seen, change, *image.widths[image.widths.layers : image.widths.layers + 1]], 2)
        self.image = image

    @property
    def names(self) -> list[str]:
        return ["last layer", "change between frames", "class probabilities"][: len(self.widths)]

    def features(self, media: Tensor, deepest: int) -> list[Tensor]:
        if media.shape[2] != FRAMES:
            raise EPALMError(
                f"This video encoder sees {FRAMES} frames, but the adapter's recipe gives {media.shape[2]}: "
                "use the recipe in the adapter's config.json."
            )
        pooled, change = zip(*(self.look(clip) for clip in media), strict=True)
        frames = torch.stack(pooled)  # (B, 8, D)
        features = [frames.mean(1), torch.stack(change)]
        if deepest >= self.widths.layers:
            features.append(self.image.probabilities(frames).mean(1))
        return features

    def look(self, clip: Tensor) -> tuple[Tensor, Tensor]:
        """(3, 8, H, W) -> (8, D) pooled feature of every frame, and (175,) changes between them."""
        pixels = clip.transpose(0, 1).contiguous(memory_format=torch.channels_last)
        pooled, maps = self.image.pooled_and_map(pixels, STAGE)
        return pooled, changes(maps)


def changes(maps: Tensor) -> Tensor:
    """Feature maps of consecutive frames (T, C, h, w) -> ((T - 1) * 25,) lengths of their differences."""
    length = (maps[1:] - maps[:-1]).norm(dim=1, keepdim=True)  # (T - 1, 1, h, w)
    return adaptive_avg_pool2d(length, GRID).flatten() / maps.norm(dim=1).mean()
