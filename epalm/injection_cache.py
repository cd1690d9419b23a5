"""The pass of `injection.py` with exact caches, for decoding: keeps whatever no later token can change.

In `causal` mode nothing changes, so every key and value is cached. In `reference` mode row 0 sees all text,
so its output changes with every new token. That is harmless where it is overwritten (see `injection.py`);
where it is not, the layers around the leak need the special treatment below.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache

from epalm.cache_layers import RoomyLayer
from epalm.config import InjectionConfig
from epalm.injection import LayerKwargs, Masks, add_to_prompt, injection_schedule, overwrite_row_0


@dataclass(frozen=True)
class CachePlan:
    """The schedule, and the layers where the layout of the rows changes; N, the depth, means "in none"."""

    schedule: tuple[int, ...]  # token index per layer, -1 = not replaced
    first_replaced_layer: int  # where row 0 is put in front
    leak_layer: int  # the first layer that reads what row 0 saw of the text

    @classmethod
    def of(cls, config: InjectionConfig, num_layers: int, num_tokens: int) -> CachePlan:
        schedule = injection_schedule(config, num_layers, num_tokens)
        first = next((i for i, j in enumerate(schedule) if j >= 0), num_layers)
        leak = num_layers
        if config.mask == "reference":
            leak = next((i for i in range(first, num_layers) if schedule[i] < 0), num_layers)
        return cls(tuple(schedule), first, leak)

    @property
    def last_replaced_layer(self) -> int:
        """The replaced layer before the leak: in it, row 0 looks at every new token."""
        return self.leak_layer - 1 if self.leak_layer < len(self.schedule) else len(self.schedule)

    @property
    def recomputes(self) -> bool:
        """True if layers follow the leak: all their rows change with every new token."""
        return self.leak_layer < len(self.schedule) - 1


@dataclass(frozen=True)
class Beginning:
    """A soft prompt below the first replaced layer: there it sees itself alone, so it is the same for all
    requests of an adapter.

    B is 1, or the number of items where they have different prompts.
    """

    prompt: Tensor  # (B, P, E)
    layers: list[tuple[Tensor, Tensor]]  # keys and values (B, heads, P, d) of the layers
    hidden: Tensor  # (B, P, H) what enters the first replaced layer

    @classmethod
    def of_several(cls, each: Sequence[Beginning]) -> Beginning:
        """Those of the items of a batch."""
        layers = [
            (torch.cat([keys for keys, _ in layer]), torch.cat([values for _, values in layer]))
            for layer in zip(*(beginning.layers for beginning in each), strict=True)
        ]
        prompt, hidden = (
            torch.cat(parts) for parts in zip(*((b.prompt, b.hidden) for b in each), strict=True)
        )
        return cls(prompt, layers, hidden)

    def is_of(self, prompt: Tensor, num_layers: int) -> bool:
        """Whether it was made from these rows (1, P, E), up to that layer."""
        same = (prompt.shape, prompt.device, prompt.dtype, num_layers)
        mine = (self.prompt.shape, self.prompt.device, self.prompt.dtype, len(self.layers))
        return same == mine and torch.equal(prompt, self.prompt)


class InjectedCache(Cache):
    """Keys and values of the rows that no later token changes (exact in both mask modes).

    In `causal` mode, and below the leak in `reference` mode, rows never change: plain caching. Around the
    leak, row 0 is computed afresh with every new token: the last replaced layer (whose output row 0 carries
    the new view of the text) and the leaking layer itself replace the cached row 0. Where more layers follow,
    every row after the leak changes, so the leaking layer keeps the rows that enter it, and the layers from
    there on are recomputed.

    Args:
        prompt_len: P, rows that are neither perceptual token nor text.
    """

    def __init__(self, plan: CachePlan, prompt_len: int):
        layers: list[Any] = []
        for i in range(len(plan.schedule)):
            refreshed = i == plan.last_replaced_layer or (i == plan.leak_layer and not plan.recomputes)
            layers.append(_RefreshedRowLayer() if refreshed else RoomyLayer())
        super().__init__(layers=layers)
        self.plan = plan
        self._rows_before_text = prompt_len + (plan.first_replaced_layer == 0)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Number of text tokens seen, which is what `generate` counts."""
        rows = super().get_seq_length(layer_idx)
        return max(rows - self._rows_before_text, 0)

    @property
    def is_empty(self) -> bool:
        """Whether nothing has been computed, not even a prompt without text."""
        return super().get_seq_length() == 0

    def begin(self, layer_idx: int, beginning: Beginning, batch: int) -> None:
        """Put the prompt's keys and values in an empty layer."""
        keys, values = beginning.layers[layer_idx]
        layer = cast(RoomyLayer, self.layers[layer_idx])
        layer.place(keys.expand(batch, -1, -1, -1), values.expand(batch, -1, -1, -1))

    def remember_rows(self, hidden: Tensor, layer_idx: int) -> Tensor:
        """Append rows (B, R, H) that enter a recomputed layer; returns all of them so far."""
        rows, _ = self.update(hidden[:, None], hidden[:, None, :, :0], layer_idx)
        return rows[:, 0]


class _RefreshedRowLayer(RoomyLayer):
    """A cache layer whose row 0 is replaced by every update; the other rows are appended."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any):
        if self.get_seq_length():
            self.keys[:, :, :1] = key_states[:, :, :1]
            self.values[:, :, :1] = value_states[:, :, :1]
            key_states, value_states = key_states[:, :, 1:], value_states[:, :, 1:]
        return super().update(key_states, value_states, *args, **kwargs)


def run_layers_cached(
    layers: nn.ModuleList,
    hidden: Tensor,
    tokens: Tensor | None,
    cache: InjectedCache,
    masks: Masks,
    layer_kwargs: LayerKwargs,
    beginning: Beginning | None = None,
    deep: Tensor | None = None,
) -> Tensor:
    """`injection.run_layers` on the rows that are not in the cache, which is filled in place.

    Args:
        hidden: (B, P + T, H) embedded prompt and text; when the cache is not empty, (B, T_new, H) new text;
            with `beginning`, (B, T, H) text.
        tokens: (B, n, H) perceptual tokens, or None for a text-only pass.
        beginning: the prompt below the first replaced layer, if it is known and the cache is empty.
        deep: as in `run_layers`; None when the cache is not empty, since it has the prompt's rows already.
    Returns:
        (B, R, H) output of the last layer. R depends on what had to be computed; the last rows are those of
        the new text.
    """
    plan = cache.plan
    text_rows = hidden.shape[1]  # rows of prompt and text that are computed
    # Once row 0 is cached, it is not computed again before the layer where it looks at every new token.
    token_from = 0 if cache.is_empty else plan.last_replaced_layer
    has_token = False
    for i, layer in enumerate(layers):
        if beginning is not None and i < plan.first_replaced_layer:
            cache.begin(i, beginning, hidden.shape[0])
            if text_rows == 0:
                continue
        elif beginning is not None and i == plan.first_replaced_layer:
            hidden = torch.cat([beginning.hidden.expand(hidden.shape[0], -1, -1), hidden], dim=1)
            text_rows = hidden.shape[1]
        if tokens is not None and plan.schedule[i] >= 0 and i >= token_from:
            hidden, has_token = overwrite_row_0(hidden, tokens[:, plan.schedule[i]], has_token), True
        hidden = add_to_prompt(hidden, deep, len(layers) - i, has_token)
        if plan.recomputes and i == plan.leak_layer:
            rows = cache.remember_rows(hidden[:, 1:], i)
            hidden, text_rows = torch.cat([hidden[:, :1], rows], dim=1), rows.shape[1]
        mask = masks(text_rows, column=tokens is not None and i >= plan.first_replaced_layer, row=has_token)
        stored = cache if i < plan.leak_layer or not plan.recomputes else None
        hidden = layer(
            hidden, attention_mask=mask, past_key_values=stored, **layer_kwargs(text_rows, has_token)
        )
    return hidden
