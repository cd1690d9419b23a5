"""The idea of the paper in one file: one perceptual token, overwritten layer after layer.

A frozen LM runs over `[soft prompt][text]`. At decoder layer `start_layer_idx` one row is put in front,
`[perceptual token][soft prompt][text]`, and before that layer and the following ones up to
`end_layer_idx` the row is overwritten with a deeper [CLS] feature of the encoder (mapped by the
connector). So the LM's layers read the encoder's last layers in step, through a single position.

    layer            0 … s-1          s            s+1     …      e-1           e … N-1
    row 0              —         token 0      token 0/1    …   token n-1   carried on, not overwritten
    other rows    prompt, text   prompt, text      …              …            prompt, text

What row 0 itself may see is the adapter's *mask mode*:

- `reference`: everything, as in the original implementation, future text and padding too. Row 0 is
  overwritten before the next replaced layer, so only what leaves the *last* layer of a contiguous run of
  replaced layers is ever read, by the un-replaced layer behind it. Published adapters need this mode.
- `causal`: itself only. Nothing leaks, every key and value can be cached, a batch equals its items.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicLayer

from epalm.config import InjectionConfig


def injection_schedule(config: InjectionConfig, num_layers: int, num_tokens: int) -> list[int]:
    """Which token overwrites row 0 before each LM layer; -1 where none does.

    The range of R = e - s layers is cut into steps of floor(R / n) layers (1 if R <= n); layer i gets
    token min(floor((i - s) / step), n - 1) if `i` is a multiple of `text_step`. The last token serves the
    remainder; with R < n the last tokens are never used. (Original implementation.)

    Args:
        num_layers: N, decoder layers of the LM.
        num_tokens: n, injected hidden states.
    """
    start, end = config.start_layer_idx, config.end_layer_idx
    step = layers_per_token(config, num_tokens)
    return [
        min((i - start) // step, num_tokens - 1) if start <= i < end and i % config.text_step == 0 else -1
        for i in range(num_layers)
    ]


def layers_per_token(config: InjectionConfig, num_tokens: int) -> int:
    """How many consecutive LM layers read the same token."""
    span = config.end_layer_idx - config.start_layer_idx
    return span // num_tokens if num_tokens > 1 and span > num_tokens else 1


@dataclass(frozen=True)
class Plan:
    """The schedule, and the two layers where the layout of the rows changes."""

    schedule: tuple[int, ...]  # token index per layer, -1 = not replaced
    first: int  # layer at which row 0 is put in front; N if never
    leak: int  # first layer that reads what row 0 saw of the text; N if there is none

    @classmethod
    def of(cls, config: InjectionConfig, num_layers: int, num_tokens: int) -> Plan:
        schedule = injection_schedule(config, num_layers, num_tokens) if num_tokens else [-1] * num_layers
        first = next((i for i, j in enumerate(schedule) if j >= 0), num_layers)
        leak = num_layers
        if config.mask == "reference":
            leak = next((i for i in range(first, num_layers) if schedule[i] < 0), num_layers)
        return cls(tuple(schedule), first, leak)

    @property
    def refreshed(self) -> int:
        """The replaced layer before the leaking one: its row 0 looks at every new token; N if none."""
        return self.leak - 1 if self.leak < len(self.schedule) else len(self.schedule)

    @property
    def recomputes(self) -> bool:
        """True if layers behind the leaking one exist: all their rows change with every new token."""
        return self.leak < len(self.schedule) - 1


class InjectedCache(Cache):
    """Keys and values of the rows that no later token changes (exact in both mask modes).

    In `causal` mode, and below the leaking layer in `reference` mode, rows never change: plain caching.
    Around the leak, row 0 is computed afresh with every new token: the layer before (whose output row 0
    carries the new view of the text) and the leaking layer itself replace the cached row 0. Where more
    layers follow, every row behind the leak changes, so the leaking layer keeps the rows that enter it and
    the layers from there on are recomputed.

    Args:
        prompt_len: P, rows that are neither perceptual token nor text.
    """

    def __init__(self, plan: Plan, prompt_len: int):
        layers = []
        for i in range(len(plan.schedule)):
            refreshed = i == plan.refreshed or (i == plan.leak and not plan.recomputes)
            layers.append(_RefreshedRowLayer() if refreshed else DynamicLayer())
        super().__init__(layers=layers)
        self._rows_before_text = prompt_len + (plan.first == 0)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Number of text tokens seen, which is what `generate` counts."""
        rows = super().get_seq_length(layer_idx)
        return max(rows - self._rows_before_text, 0)

    def remember_rows(self, hidden: Tensor, layer_idx: int) -> Tensor:
        """Append rows (B, R, H) that enter a recomputed layer; returns all of them so far."""
        rows, _ = self.update(hidden[:, None], hidden[:, None, :, :0], layer_idx)
        return rows[:, 0]


class _RefreshedRowLayer(DynamicLayer):
    """A cache layer whose row 0 is replaced by every update; the other rows are appended."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any):
        if self.get_seq_length():
            self.keys[:, :, :1] = key_states[:, :, :1]
            self.values[:, :, :1] = value_states[:, :, :1]
            key_states, value_states = key_states[:, :, 1:], value_states[:, :, 1:]
        return super().update(key_states, value_states, *args, **kwargs)


def run_layers(
    layers: nn.ModuleList,
    hidden: Tensor,
    tokens: Tensor | None,
    text_mask: Tensor,
    prompt_len: int,
    plan: Plan,
    reference_mask: bool,
    layer_kwargs: Callable[[int, bool], dict[str, Any]],
    cache: InjectedCache | None,
) -> Tensor:
    """Run the LM's own decoder layers, overwriting row 0 by the plan.

    Args:
        hidden: (B, P + T, H) embedded prompt and text, or (B, T_new, H) when `cache` holds what came before.
        tokens: (B, n, H) perceptual tokens, or None for a text-only pass.
        text_mask: (B, T_all) 1 for text, 0 for padding, cached tokens included.
        layer_kwargs: further arguments for a layer (rotary embeddings), given how many of the last prompt and
            text rows it is run on, and whether row 0 is among its rows.
    Returns:
        (B, R, H) output of the last layer. Without a cache R = 1 + P + T, row 0 being the perceptual token;
        with one R depends on what had to be computed, and the last rows are those of the new text.
    """
    fresh = cache is None or cache.get_seq_length() == 0
    masks = _Masks(text_mask, prompt_len, reference_mask, hidden.dtype)
    text_rows = hidden.shape[1]  # rows of prompt and text that are computed
    computes_row = 0 if fresh else plan.refreshed  # in the layers before, row 0 is cached like any other
    has_row = False
    for i, layer in enumerate(layers):
        layer_cache = cache if i < plan.leak or not plan.recomputes else None
        if tokens is not None and plan.schedule[i] >= 0 and i >= computes_row:
            token = tokens[:, plan.schedule[i], None].to(hidden)
            hidden = torch.cat([token, hidden[:, 1:] if has_row else hidden], dim=1)
            has_row = True
        if i == plan.leak and plan.recomputes and cache is not None:
            rows = cache.remember_rows(hidden[:, 1:], i)
            hidden, text_rows = torch.cat([hidden[:, :1], rows], dim=1), rows.shape[1]
        mask = masks(text_rows, column=tokens is not None and i >= plan.first, row=has_row)
        hidden = layer(
            hidden, attention_mask=mask, past_key_values=layer_cache, **layer_kwargs(text_rows, has_row)
        )
    return hidden


class _Masks:
    """Additive attention masks (B, 1, rows, columns), made once per layout and shared by the layers."""

    def __init__(self, text_mask: Tensor, prompt_len: int, reference: bool, dtype: torch.dtype):
        prompt_mask = text_mask.new_ones(text_mask.shape[0], prompt_len)
        self.keys = torch.cat([prompt_mask, text_mask], dim=1)  # (B, K), 1 = visible
        self.reference, self.dtype = reference, dtype
        self.made: dict[tuple[int, bool, bool], Tensor] = {}

    def __call__(self, text_rows: int, column: bool, row: bool) -> Tensor:
        key = (text_rows, column, row)
        if key not in self.made:
            self.made[key] = self._make(*key)
        return self.made[key]

    def _make(self, text_rows: int, column: bool, row: bool) -> Tensor:
        total = self.keys.shape[1]
        lowest = torch.finfo(self.dtype).min
        col = torch.arange(total, device=self.keys.device)
        idx = col[total - text_rows :, None]
        padding = torch.zeros_like(self.keys[:, None], dtype=self.dtype)  # (B, 1, K)
        padding = padding.masked_fill(self.keys[:, None] == 0, lowest)
        if self.reference:
            mask = padding + torch.zeros_like(padding[0]).masked_fill(col > idx, float("-inf"))
        else:
            # Every row sees itself: a row of padding that sees nothing would become NaN.
            mask = torch.where(col > idx, lowest, padding).masked_fill(col == idx, 0.0)
        if column:
            mask = nn.functional.pad(mask, (1, 0))
        if row:
            mask = nn.functional.pad(mask, (0, 0, 1, 0))
            if not self.reference:
                mask[:, 0, 1:] = lowest
        return mask[:, None]
