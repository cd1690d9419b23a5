"""The forward pass of a training step without computing anything twice; it gives what the plain pass gives.

Below the first replaced layer nothing has seen the perceptual token. So there the rows of the soft prompt,
and of the words that all texts of a batch begin with, are the same in all of them, and are computed once.

    layer         0 … s-1                          s … N-1
    once          [soft prompt][common words]
    per text      [rest]                           [token][soft prompt][common words][rest]

After the last layer, logits are needed where a label is to be predicted, and nowhere else. The head is
frozen, so a loss and its gradient are computed together, some rows at a time: the logits of a whole batch, by
far the largest tensor of a training step, are never in memory at once.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from epalm.config import InjectionConfig
from epalm.decoding import InjectedLM
from epalm.injection import Masks, deep_prompt, injection_schedule, run_layers

ROWS_AT_ONCE = 256  # of logits: 50 MB in float32 with a vocabulary of 50,000
SCALE = 1024.0  # of gradients while they are kept: in float16 small ones would become 0


def labelled_losses(
    lm: InjectedLM,
    prompt: Tensor | None,
    tokens: Tensor | None,
    injection: InjectionConfig,
    ids: Tensor,
    mask: Tensor,
    labels: Tensor,
) -> Tensor:
    """Cross-entropy of every labelled token given what precedes it.

    Args:
        prompt: (P, E) soft prompt, (P, 1 + L, E) if it is deep, or None.
        tokens: (B, n, H) perceptual tokens, or None.
        ids, mask, labels: (B, T) text, 1 where it is not padding, and what is to be predicted (else -100).
    Returns:
        (B, T - 1) float32 or better, 0 where the label is -100.
    """
    batch, length = ids.shape
    # In `reference` mode padding is seen, which must not see words that it would not see in the plain pass.
    common = 0 if injection.mask == "reference" else common_words(ids, mask, labels)
    hidden, own = last_hidden(lm, prompt, tokens, injection, ids, mask, common)
    of_text = hidden[:, hidden.shape[1] - (length - common) :]  # (B, T - common, H)
    wanted = labels[own].view(batch, -1)[:, 1:]  # what each row but the last one is to predict
    chosen = wanted != -100
    losses = _HeadLoss.apply(of_text[:, :-1][chosen], wanted[chosen], lm)
    out = losses.new_zeros(wanted.shape).masked_scatter(chosen, losses)
    return torch.nn.functional.pad(out, (common, 0))


def common_words(ids: Tensor, mask: Tensor, labels: Tensor) -> int:
    """How many tokens all texts begin with that are not learned, but for the last such token, which predicts
    what is particular to a text."""
    length = int(mask.sum(1).min())
    columns = mask.int().argmax(1, keepdim=True) + torch.arange(length, device=ids.device)  # (B, L)
    words, learned = ids.gather(1, columns), labels.gather(1, columns) != -100
    same = (words == words[:1]).all(0) & ~learned.any(0)
    return max(0, int(same.int().cumprod(0).sum()) - 1)


def last_hidden(
    lm: InjectedLM,
    prompt: Tensor | None,
    tokens: Tensor | None,
    injection: InjectionConfig,
    ids: Tensor,
    mask: Tensor,
    common: int,
) -> tuple[Tensor, Tensor]:
    """The output of the last layer (B, R, H), and which of the columns of `ids` are particular to each text.

    Rows are [perceptual token][soft prompt][common words][the rest of each text, padded as it was].

    Args:
        common: words that all texts begin with.
    Returns:
        The second one is (B, T) bool, T - common columns of each text.
    """
    batch, length = ids.shape
    family, base = lm.family, lm.base
    rows, deep = deep_prompt(None if prompt is None else prompt[None])
    prompt_len = 0 if rows is None else rows.shape[1]
    once = prompt_len + common  # rows
    start = mask.int().argmax(1, keepdim=True)  # (B, 1) first column of each text
    column = torch.arange(length, device=ids.device)
    own = (column < start) | (column >= start + common)
    positions = mask.cumsum(1) * mask - 1  # in the text; -1 = padding
    own_ids, own_mask, own_positions = (t[own].view(batch, -1) for t in (ids, mask, positions))
    words = ids[:1, int(start[0]) :][:, :common]

    counted = torch.arange(once, device=ids.device)[None]
    shared = family.embed(base, rows, words, counted[:, :common])
    hidden = family.embed(base, None, own_ids, own_positions)  # (B, T - common, H)
    rows_at = torch.cat([1 + counted.expand(batch, -1), own_positions.clamp(min=0) + 1 + prompt_len], 1)

    layers = family.layers(base)
    schedule = injection_schedule(injection, lm.num_layers, 0 if tokens is None else tokens.shape[1])
    first = next((i for i, token in enumerate(schedule) if token >= 0), lm.num_layers)
    reference = injection.mask == "reference"
    masks = Masks(own_mask, once, reference, hidden.dtype)
    if once:
        of_shared = family.layer_kwargs(base, shared, rows_at[:1, :once])
        shared_mask = Masks(own_mask[:1, :0], once, reference, hidden.dtype)(once, False, False)
    of_own = family.layer_kwargs(base, hidden, rows_at[:, once:])
    own_rows = masks(hidden.shape[1], False, False)
    for layer in layers[:first]:
        keys = _KeysOfAll() if once else None
        if once:
            shared = layer(shared, attention_mask=shared_mask, past_key_values=keys, **of_shared)
        hidden = layer(hidden, attention_mask=own_rows, past_key_values=keys, **of_own)
    hidden = torch.cat([shared.expand(batch, -1, -1), hidden], 1)

    @lru_cache
    def layer_kwargs(text_rows: int, row: bool) -> dict[str, Any]:
        at = torch.nn.functional.pad(rows_at, (1, 0)) if row else rows_at
        return family.layer_kwargs(base, hidden, at)

    return run_layers(layers[first:], hidden, tokens, schedule[first:], masks, layer_kwargs, deep), own


class _KeysOfAll:
    """One layer's keys and values of the rows that are computed once; each text's own are put after them."""

    def __init__(self) -> None:
        self.shared: tuple[Tensor, Tensor] | None = None  # (1, heads, S, D) each

    def update(self, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """What an attention layer calls with the keys and values that it has just computed."""
        if self.shared is None:
            self.shared = keys, values
            return keys, values
        before = [shared.expand(len(keys), -1, -1, -1) for shared in self.shared]
        return torch.cat([before[0], keys], 2), torch.cat([before[1], values], 2)


class _HeadLoss(torch.autograd.Function):
    """Cross-entropy after a frozen head; its gradient is computed along with it."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, labels: Tensor, lm: InjectedLM) -> Tensor:
        """(R, H) rows and the (R,) tokens that they are to predict -> (R,) losses."""
        learns = ctx.needs_input_grad[0]
        losses = [hidden.new_zeros(0, dtype=torch.promote_types(hidden.dtype, torch.float32))]
        gradients: list[Tensor] = []
        for start in range(0, len(hidden), ROWS_AT_ONCE):
            some = slice(start, start + ROWS_AT_ONCE)
            with torch.set_grad_enabled(learns):
                rows = hidden[some].detach().requires_grad_(learns)
                logits = lm.family.head(lm.base, rows[None])[0]
                logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
                loss = torch.nn.functional.cross_entropy(logits, labels[some], reduction="none")
                if learns:
                    gradients += torch.autograd.grad(SCALE * loss.sum(), rows)
            losses.append(loss.detach())
        ctx.save_for_backward(torch.cat(gradients) if gradients else torch.zeros_like(hidden))
        return torch.cat(losses)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (of_rows,) = ctx.saved_tensors
        return (of_rows * (gradient / SCALE)[:, None]).to(of_rows), None, None
