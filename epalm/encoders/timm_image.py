"""Image encoders: any timm model. Media: (B, 3, H, W) float, as the adapter's image recipe makes it."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
from safetensors.torch import load_file
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d
from torch.nn.utils.fusion import fuse_conv_bn_eval

from epalm.encoders.base import Encoder, hub_errors
from epalm.encoders.widths import Widths
from epalm.errors import EPALMError

STARTER_ARCHITECTURES = {"starter/efficientnet-lite2": "tf_efficientnet_lite2"}
GRID = 3  # places per side of the grid feature
GRID_STAGE = 3  # whose feature map it shows: finer than the last one, which has forgotten where things are


class TimmImageEncoder(Encoder):
    """[CLS] after every block for networks that have one, else the pooled output of every stage.

    ViT (the paper's setting): norm(block output)[:, 0] of each block, with the network's own final norm.
    Convolutional networks, and transformers without [CLS]: the mean over positions of each stage, except
    that the last layer's feature is what the classifier would see (head convolution and norm included). If
    the network was made with its classifier, two more features follow: the probabilities of its classes, and
    the feature map of stage 3 averaged over each of 3×3 places, which tells left from right.
    """

    modality = "image"

    def __init__(self, network: Any) -> None:
        if not hasattr(network, "forward_intermediates"):
            raise EPALMError(
                f"timm gives no per-layer features for {type(network).__name__}: choose another timm model."
            )
        fold_batch_norms(network.eval())
        super().__init__(network, [stage["num_chs"] for stage in network.feature_info])
        accepted = inspect.signature(network.forward_intermediates).parameters
        self.has_cls = getattr(network, "cls_token", None) is not None and "return_prefix_tokens" in accepted
        if not self.has_cls:
            *stages, _ = self.widths
            head = [network.num_classes, GRID * GRID * stages[GRID_STAGE]] if network.num_classes else []
            self.widths = Widths([*stages, network.head_hidden_size, *head], len(self.widths))

    @property
    def names(self) -> list[str]:
        if self.has_cls:
            return super().names
        stages = [f"stage {i}" for i in range(self.widths.layers - 1)]
        head = ["class probabilities", f"stage {GRID_STAGE} in {GRID}×{GRID} places"]
        return [*stages, "last layer", *head[: len(self.widths) - self.widths.layers]]

    def features(self, media: Tensor, deepest: int) -> list[Tensor]:
        if self.has_cls:
            blocks = self.network.forward_intermediates(
                media,
                indices=list(range(deepest + 1)),
                return_prefix_tokens=True,
                norm=True,
                stop_early=True,
                output_fmt="NLC",
                intermediates_only=True,
            )
            return [prefix[:, 0] for _, prefix in blocks]  # (B, D) each; further prefix tokens are registers
        final, stages = self.network.forward_intermediates(media, output_fmt="NCHW")
        pooled = [stage.mean((2, 3)) for stage in stages[:-1]]  # (B, C, H, W) -> (B, C)
        pooled.append(self.network.forward_head(final, pre_logits=True))
        if deepest >= self.widths.layers:
            pooled.append(self.probabilities(pooled[-1]))
            pooled.append(adaptive_avg_pool2d(stages[GRID_STAGE], GRID).flatten(1))  # (B, 9 C)
        return pooled

    def probabilities(self, pooled: Tensor) -> Tensor:
        """(..., D) last layer's feature -> (..., classes) what the network's own classifier makes of it."""
        return self.network.get_classifier()(pooled).softmax(-1)

    def pooled_and_map(self, media: Tensor, stage: int) -> tuple[Tensor, Tensor]:
        """The last layer's feature (B, D) and the feature map of a stage (B, C, h, w)."""
        final, stages = self.network.forward_intermediates(media, output_fmt="NCHW")
        return self.network.forward_head(final, pre_logits=True), stages[stage]


def fold_batch_norms(network: nn.Module) -> None:
    """Make the batch norms of a frozen EfficientNet part of the convolutions before them: the same numbers up
    to rounding, without a pass over the feature map. Other networks are left as they are."""
    if not isinstance(network, timm.models.EfficientNet):
        return
    for module in list(network.modules()):
        children = list(module.named_children())  # in this family, in the order of the pass
        for (before, convolution), (name, norm) in zip(children, children[1:], strict=False):
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, BatchNormAct2d):
                setattr(module, before, fuse_conv_bn_eval(convolution, norm))
                setattr(module, name, nn.Sequential(norm.drop, norm.act))


def load(backbone: str, revision: str | None = None) -> TimmImageEncoder:
    """A timm model with its pretrained weights: "timm/NAME", "NAME" or a local folder in timm's hub format.

    Raises:
        EPALMError: timm knows no such model, or its weights cannot be loaded.
    """
    name = f"local-dir:{backbone}" if Path(backbone).is_dir() else backbone.removeprefix("timm/")
    pinned = {"hf_hub_id": f"timm/{name}@{revision}"} if revision else None
    with hub_errors(backbone):
        network = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=pinned, num_classes=0)
    return TimmImageEncoder(network)


def load_starter(backbone: str, progress: Callable[[str], None] | None = None) -> TimmImageEncoder:
    """The starter's vision backbone with its classifier; made in the local cache on first use.

    Raises:
        EPALMError: no such starter vision backbone.
    """
    from epalm.hub.wheels import backbone_dir

    if backbone not in STARTER_ARCHITECTURES:
        known = " or ".join(STARTER_ARCHITECTURES)
        raise EPALMError(f"{backbone} is not a starter image encoder: use {known}.")
    state = load_file(backbone_dir(backbone, progress) / "model.safetensors")
    network = timm.create_model(STARTER_ARCHITECTURES[backbone], pretrained=False)
    network.load_state_dict(state)
    return TimmImageEncoder(network)


def from_original(
    state: dict[str, Tensor], num_heads: int, img_size: int | tuple[int, int]
) -> TimmImageEncoder:
    """A ViT from the original's state dict, whose key names are timm's; sizes are read from the tensors."""
    width, _, patch, _ = state["patch_embed.proj.weight"].shape
    network = timm.models.VisionTransformer(
        img_size=img_size,
        patch_size=patch,
        embed_dim=width,
        depth=1 + max(int(key.split(".")[1]) for key in state if key.startswith("blocks.")),
        num_heads=num_heads,
        mlp_ratio=state["blocks.0.mlp.fc1.weight"].shape[0] / width,
        qkv_bias="blocks.0.attn.qkv.bias" in state,
        num_classes=0,
    )
    network.load_state_dict({key: value for key, value in state.items() if not key.startswith("head.")})
    return TimmImageEncoder(network)
