"""The only trained parameters: one linear connection and one soft prompt (paper, sections 3.2 and 3.3)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from epalm.config import AdapterConfig
from epalm.errors import EPALMError
from epalm.files import atomic, write_atomic
from epalm.injection import injection_schedule

WEIGHTS, CONFIG = "adapter.safetensors", "config.json"
MEAN = "mean_feature_{}"  # key of an optional tensor


class SoftPrompt(nn.Module):
    """P trained vectors, optionally passed through Linear, Tanh, Linear.

    A deep prompt also has P vectors for each of the LM's last layers, which are added to its rows before that
    layer (compare P-tuning v2, Liu et al. 2022, which replaces the rows). They start at zero, and are stored
    in units of `deep_unit`: how much larger a layer's states are than the rows at the input. So one learning
    rate suits all of them.

    Args:
        deep: L, how many of the last layers; 0 = only the rows at the input are trained.
    """

    deep_unit: Tensor

    def __init__(self, length: int, width: int, mlp: bool, deep: int = 0):
        super().__init__()
        self.embedding = nn.Embedding(length, width)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width)) if mlp else None
        self.deep = nn.Parameter(torch.zeros(deep, length, width)) if deep else None
        if deep:
            self.register_buffer("deep_unit", torch.ones(deep))

    def forward(self) -> Tensor:
        """(P, E) rows that precede the text embeddings; a deep prompt gives (P, 1 + L, E), see `deep_prompt`
        in `epalm.injection`."""
        rows = self.embedding.weight
        rows = rows if self.mlp is None else self.mlp(rows)
        if self.deep is None:
            return rows
        added = self.deep * self.deep_unit[:, None, None]
        return torch.cat([rows[:, None], added.transpose(0, 1)], dim=1)


class Adapter(nn.Module):
    """Connector(s) and soft prompt for one frozen LM and one frozen encoder.

    Token j is `connector[j](feature j)`, feature 0 being the shallowest; a shared connector serves all.
    """

    def __init__(self, config: AdapterConfig):
        super().__init__()
        self.config = config
        widths = config.encoder.widths[:1] if config.shared_connector else config.encoder.widths
        self.connector = nn.ModuleList(nn.Linear(width, config.lm.hidden_size) for width in widths)
        schedule = injection_schedule(config.injection, config.lm.num_layers, config.num_tokens)
        for j in range(len(self.connector)):
            read = max(schedule) >= 0 if config.shared_connector else j in schedule
            self.connector[j].requires_grad_(read)  # what no LM layer reads, nothing can train
        self.prompt = None
        if config.prompt is not None:
            self.prompt = SoftPrompt(
                config.prompt.length, config.lm.embed_size, config.prompt.mlp, config.deep_layers
            )
        for j in range(config.num_tokens):
            self.register_buffer(MEAN.format(j), None)

    @property
    def mean_features(self) -> list[Tensor] | None:
        """(D_j) mean of each feature over the training data, for explanations; None if it is not known.

        Optional in `adapter.safetensors`, as `mean_feature_0` (D_0), `mean_feature_1` (D_1), …
        """
        means = [self.get_buffer(MEAN.format(j)) for j in range(self.config.num_tokens)]
        return None if means[0] is None else means

    @mean_features.setter
    def mean_features(self, means: Sequence[Tensor]) -> None:
        widths = tuple(mean.shape[-1] for mean in means if mean.ndim == 1)
        if widths != self.config.encoder.widths:
            raise ValueError(f"mean features of widths {widths} for features of {self.config.encoder.widths}")
        for j, mean in enumerate(means):
            self.register_buffer(MEAN.format(j), mean)

    def tokens(self, features: Sequence[Tensor]) -> Tensor:
        """n features (B, D_j) -> (B, n, H) perceptual tokens, computed in float32 or better."""
        shared = self.config.shared_connector
        used = [cast(nn.Linear, self.connector[0 if shared else j]) for j in range(len(features))]
        return torch.stack([_linear(c, f) for c, f in zip(used, features, strict=True)], dim=1)

    def save(self, folder: Path) -> None:
        """Write `adapter.safetensors`, in the dtype of the parameters, and then `config.json`.

        Raises:
            EPALMError: the folder cannot be written, or the disk is full.
        """
        state = {k: v.detach().cpu().contiguous() for k, v in self.state_dict().items()}
        try:
            with atomic(folder / WEIGHTS) as file:
                file.write(save(state))
        except OSError as error:
            raise EPALMError(f"{folder / WEIGHTS} cannot be written ({error.strerror or error}).") from error
        write_atomic(folder / CONFIG, [self.config.to_json()])

    @classmethod
    def load(cls, folder: Path) -> Adapter:
        """Read an adapter folder.

        Raises:
            EPALMError: a file is missing or damaged, or the tensors are not those that the config describes.
        """
        config = AdapterConfig.load(folder / CONFIG)
        with torch.device("meta"):
            adapter = cls(config)
        try:
            state = load_file(folder / WEIGHTS)
        except FileNotFoundError:
            raise EPALMError(f"{folder} lacks {WEIGHTS}; copy the whole adapter folder again.") from None
        except (SafetensorError, OSError) as error:
            raise EPALMError(f"{folder / WEIGHTS} is damaged ({error}); copy or download it again.") from None
        if MEAN.format(0) in state:
            adapter.mean_features = [torch.empty(width, device="meta") for width in config.encoder.widths]
        return adapter.filled(state, f"{folder}: {CONFIG} and {WEIGHTS}")

    def filled(self, state: Mapping[str, Tensor], source: str, name: Callable[[str], str] = str) -> Adapter:
        """This adapter with the tensors of `state`, for use.

        Args:
            source: where they are from, to begin a sentence.
            name: what a tensor is called there.
        Raises:
            EPALMError: one is missing, unknown or of another shape; names the tensor and both shapes.
        """
        described = {key: tuple(value.shape) for key, value in self.state_dict().items()}
        found = {key: tuple(value.shape) for key, value in state.items()}
        for key in sorted(described.keys() | found.keys()):
            ours, theirs = described.get(key, "nothing"), found.get(key, "nothing")
            if ours != theirs:
                raise EPALMError(
                    f"{source} do not fit together: {name(key)} should be {ours}, but it is {theirs}."
                )
        self.load_state_dict(dict(state), assign=True)
        return self.eval()


def _linear(layer: nn.Linear, feature: Tensor) -> Tensor:
    """In float32 even where the weights are stored in float16: a sum of 1280 products in it loses digits."""
    dtype = torch.promote_types(layer.weight.dtype, torch.float32)
    weight, bias = layer.weight.to(dtype), layer.bias.to(dtype)
    return nn.functional.linear(feature.to(weight), weight, bias)
