"""The idea of the paper in one file: one perceptual token, overwritten layer after layer.

A frozen LM runs over `[soft prompt][text]`. At decoder layer `start_layer_idx` one row is put in front,
`[perceptual token][soft prompt][text]`, and before this layer and the following ones up to `end_layer_idx`
the row is overwritten with a deeper [CLS] feature of the encoder, mapped by the connector. So the LM reads
the encoder's last layers one after another, through a single position.

    layer            0 … s-1          s            s+1     …      e-1           e … N-1
    row 0              —         token 0      token 0/1    …   token n-1   carried on, not overwritten
    other rows    prompt, text   prompt, text      …              …            prompt, text

What row 0 itself may see is the adapter's *mask mode*:

- `reference`: everything, including future text and padding, as in the original implementation. While row 0
  is being overwritten, what it saw is discarded before anything reads it. But after the last replaced layer
  it is carried on, and the next layer reads what it saw: this is the *leak*. Published adapters need this
  mode.
- `causal`: only itself. Nothing leaks, every key and value can be cached, and a batch equals its items.

A soft prompt may be *deep*: then trained vectors are added to its rows before each of the last layers as well
(`add_to_prompt`), which the paper does not do.

`run_layers` is the method as the paper states it. Three passes are built on `overwrite_row_0`, and tests
check that they agree:

    plain      run_layers                 `InjectedLM.forward` without a cache, `verify`
    training   training_pass.py           computes rows that a batch shares only once, then calls run_layers
    decoding   injection_cache.py         run_layers on the rows that are not cached yet
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from epalm.config import InjectionConfig

# Further arguments of a layer (rotary embeddings), given how many of the last prompt and text rows it runs
# on, and whether row 0 is one of its rows.
LayerKwargs = Callable[[int, bool], dict[str, Any]]


def injection_schedule(config: InjectionConfig, num_layers: int, num_tokens: int) -> list[int]:
    """Which token overwrites row 0 before each LM layer; -1 = none.

    As in the original implementation, the range of R = e - s layers is cut into steps of floor(R / n) layers
    (1 if R <= n); layer i gets token min(floor((i - s) / step), n - 1) if `i` is a multiple of `text_step`.
    The last token also serves the remainder; with R < n the last tokens are never used.

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


def overwrite_row_0(hidden: Tensor, token: Tensor, has_token: bool) -> Tensor:
    """Overwrite row 0 with a deeper feature; before the first replaced layer, put the row in front.

    Args:
        hidden: (B, R, H), with the perceptual token in row 0 if `has_token`.
        token: (B, H) the feature, mapped to the LM's width.
    """
    rest = hidden[:, 1:] if has_token else hidden
    return torch.cat([token[:, None].to(hidden), rest], dim=1)


def deep_prompt(prompt: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """The two parts of a soft prompt: its rows at the input, and what is added to them in the last layers.

    Args:
        prompt: (B, P, E); or (B, P, 1 + L, E), a deep one for the last L layers, whose width is E.
    Returns:
        (B, P, E) rows, and (B, P, L, E) vectors or None.
    """
    if prompt is None or prompt.ndim == 3:
        return prompt, None
    return prompt[:, :, 0], prompt[:, :, 1:]


def add_to_prompt(hidden: Tensor, deep: Tensor | None, layers_left: int, has_token: bool) -> Tensor:
    """Add a deep prompt's vectors to its rows before a layer.

    Args:
        hidden: (B, R, H) rows that begin with the perceptual token, if `has_token`, and the prompt.
        deep: (B, P, L, H) vectors for the last L layers, or None.
        layers_left: this layer and those after it.
    """
    if deep is None or layers_left > deep.shape[2]:
        return hidden
    added = deep[:, :, -layers_left].to(hidden)
    return hidden + nn.functional.pad(added, (0, 0, has_token, hidden.shape[1] - added.shape[1] - has_token))


def run_layers(
    layers: nn.ModuleList,
    hidden: Tensor,
    tokens: Tensor | None,
    schedule: Sequence[int],
    masks: Masks,
    layer_kwargs: LayerKwargs,
    deep: Tensor | None = None,
) -> Tensor:
    """Run the LM's own decoder layers, overwriting row 0 as scheduled.

    Args:
        hidden: (B, P + T, H) embedded prompt and text.
        tokens: (B, n, H) perceptual tokens, or None for a text-only pass.
        schedule: token index per layer, -1 = not overwritten; see `injection_schedule`.
        deep: (B, P, L, H) what a deep prompt adds to its rows in the last L layers, or None.
    Returns:
        (B, R, H) output of the last layer; with tokens R = 1 + P + T, and row 0 is the perceptual token.
    """
    has_token = False
    for i, layer in enumerate(layers):
        if tokens is not None and schedule[i] >= 0:
            hidden, has_token = overwrite_row_0(hidden, tokens[:, schedule[i]], has_token), True
        hidden = add_to_prompt(hidden, deep, len(layers) - i, has_token)
        text_rows = hidden.shape[1] - has_token
        mask = masks(text_rows, column=has_token, row=has_token)
        hidden = layer(hidden, attention_mask=mask, **layer_kwargs(text_rows, has_token))
    return hidden


class Masks:
    """Additive attention masks (B, 1, rows, columns), made once per layout and shared by the layers.

    Rows are the positions being computed, columns the keys that they may see. Two switches say whether the
    perceptual token is included. Its *column* exists in every layer from the first replaced one on; its *row*
    only where it is computed, since with a cache its keys may be there (column) without the row.

    There are two kinds of "invisible". In `reference` mode, as in the original, the future is minus infinity
    and padding is the lowest finite number. So a padding row, which sees nothing else, spreads its attention
    evenly over the padding before it but never over the future; this matters because row 0 sees these rows.
    In `causal` mode both are the lowest finite number and every row sees itself, because a softmax over only
    minus infinity would be NaN.

    Args:
        text_mask: (B, T) 1 = text, 0 = padding, including cached tokens.
        prompt_len: P, rows of the soft prompt.
        reference: the mask mode; True lets row 0 see everything.
    """

    def __init__(self, text_mask: Tensor, prompt_len: int, reference: bool, dtype: torch.dtype):
        prompt_mask = text_mask.new_ones(text_mask.shape[0], prompt_len)
        self.keys = torch.cat([prompt_mask, text_mask], dim=1)  # (B, P + T), 1 = visible
        self.reference, self.dtype = reference, dtype
        self.made: dict[tuple[int, bool, bool], Tensor] = {}

    def __call__(self, text_rows: int, column: bool, row: bool) -> Tensor:
        """The mask of a layer that runs on the last `text_rows` rows of prompt and text."""
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
            mask = torch.where(col > idx, lowest, padding).masked_fill(col == idx, 0.0)
        if column:
            mask = nn.functional.pad(mask, (1, 0))
        if row:
            mask = nn.functional.pad(mask, (0, 0, 1, 0))
            if not self.reference:
                mask[:, 0, 1:] = lowest
        return mask[:, None]
