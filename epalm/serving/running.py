"""Continuous batching: one step of the frozen LM adds one token to every running text.

In `causal` mask mode the rows of a batch are independent, and once the perceptual token and the prompt are in
the cache, all adapters of an LM continue their texts in the same way. So texts of different tasks, adapters
and lengths share the steps; a new text can join before any step, and a finished one leaves.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from epalm.adapted import AdaptedLM
from epalm.cache_layers import ROOM, RoomyLayer
from epalm.config import GenerationConfig
from epalm.decoding import InjectedLM
from epalm.text import pad_left


@dataclass
class Text:
    """A text that is being generated."""

    owner: Any  # whoever asked for it
    length: int  # T, number of text ids so far, including the input
    prompt_len: int  # P, rows of the soft prompt
    left: int  # tokens that may still be added
    stops: set[int]  # ids that end it
    new: list[int] = field(default_factory=list)  # generated ids
    log_probability: float = 0.0  # sum over the generated tokens, in nats

    @property
    def finished(self) -> bool:
        """Whether it has ended or reached its limit."""
        return self.left <= 0 or (bool(self.new) and self.new[-1] in self.stops)


@dataclass(frozen=True)
class Newcomer:
    """A text that is to begin."""

    owner: Any  # whoever asked for it
    adapted: AdaptedLM
    features: Sequence[Tensor]  # n encoder features (1, D_j)
    ids: Sequence[int]  # of the input
    limit: int  # most new tokens

    def tokens(self, device: torch.device) -> Tensor:
        """(1, n, H) perceptual tokens."""
        return self.adapted.adapter.tokens([feature.to(device) for feature in self.features])


def layout(adapted: AdaptedLM) -> tuple[Hashable, ...]:
    """What adapters must have in common for their texts to begin in one pass."""
    config = adapted.adapter.config
    return config.injection, config.num_tokens, config.prompt and config.prompt.length, config.deep_layers


def can_run(adapted: AdaptedLM, generation: GenerationConfig) -> bool:
    """Whether an adapter's texts can share steps: `causal` mode and greedy search without further rules."""
    rules = set(adapted.lm.generation_config.to_diff_dict())
    harmless = {"bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "do_sample",
                "temperature", "top_k", "top_p", "use_cache", "transformers_version", "_from_model_config",
                "max_length", "max_new_tokens", "output_attentions", "output_hidden_states"}  # fmt: skip
    limited = generation.max_new_tokens is not None or generation.max_length is not None
    return generation.num_beams == 1 and limited and not adapted.pads_visible and rules <= harmless


def token_limit(generation: GenerationConfig, input_len: int) -> int:
    """The most tokens that may be generated after an input, as in `InjectedLM.decode`."""
    if generation.max_length is not None:
        return max(generation.max_length - input_len, 1)
    assert generation.max_new_tokens is not None
    return generation.max_new_tokens


class RunningBatch:
    """Greedy decoding of a changing set of texts.

    Args:
        lm: the frozen LM that all adapters share.
    """

    def __init__(self, lm: InjectedLM):
        self.lm = lm
        self.texts: list[Text] = []
        self.end = _end_ids(lm)
        self._cache = _SharedCache(lm.num_layers)
        self._last: list[int] = []  # newest token of every text, not yet in the cache

    def __len__(self) -> int:
        return len(self.texts)

    @torch.inference_mode()
    def join(self, texts: Sequence[Newcomer]) -> None:
        """Add new texts, whose adapters have the same `layout`, and generate their first tokens."""
        lm, config = self.lm, texts[0].adapted.adapter.config
        ids, mask = (t.to(lm.device) for t in pad_left([text.ids for text in texts], 0))
        tokens = torch.cat([text.tokens(lm.device) for text in texts])
        prompt = texts[0].adapted.prompt_rows(len(texts))
        if prompt is not None and any(text.adapted is not texts[0].adapted for text in texts):
            prompt = torch.cat([cast(Tensor, text.adapted.prompt_rows(1)) for text in texts])
        prompt_len = 0 if prompt is None else prompt.shape[1]
        cache = lm.new_cache(config.injection, tokens.shape[1], prompt_len)
        logits = lm(ids, mask, prompt, tokens, config.injection, cache, logits_to_keep=1).logits
        filled = [(layer.keys, layer.values) for layer in cast(list[Any], cache.layers)]
        pads = [ids.shape[1] - len(text.ids) for text in texts]
        for i, layer in enumerate(filled):  # padding lies before the text: put it in front of everything
            front = prompt_len + (i >= cache.plan.first_replaced_layer)
            for row, pad in enumerate(pads):
                for part in layer if pad else ():
                    part[row, :, pad : front + pad] = part[row, :, :front].clone()
        before = len(self.texts)
        try:
            self._cache.add(filled, pads)
            for text in texts:
                stops = self.end | text.adapted.text.stops  # anything after a stop is not part of the answer
                self.texts.append(Text(text.owner, len(text.ids), prompt_len, text.limit, stops))
            self._last += [0] * len(texts)
            self._take(logits[:, -1], before)
        except BaseException:  # too little memory in one of the layers, for example: the others go on
            del self.texts[before:], self._last[before:]
            self._cache.cut(before)
            raise

    @torch.inference_mode()
    def step(self) -> None:
        """Add a token to every text."""
        family, base, device = self.lm.family, self.lm.base, self.lm.device
        ids = torch.tensor(self._last, device=device)[:, None]
        at = torch.tensor([text.length - 1 for text in self.texts], device=device)[:, None]
        before = torch.tensor([1 + text.prompt_len for text in self.texts], device=device)[:, None]
        hidden = family.embed(base, None, ids, at)  # (B, 1, H)
        further = family.layer_kwargs(base, hidden, at + before)
        masks = self._cache.masks(hidden.dtype)
        for layer, mask in zip(family.layers(base), masks, strict=True):
            hidden = layer(hidden, attention_mask=mask, past_key_values=self._cache, **further)
        self._take(family.head(base, hidden)[:, -1], 0)

    def _take(self, logits: Tensor, first: int) -> None:
        """Add the most probable token, by logits (B, V), to each text from `first` on."""
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        tokens = logits.argmax(-1)
        sure = logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(-1)
        for i, (token, log_probability) in enumerate(zip(tokens.tolist(), sure.tolist(), strict=True), first):
            text = self.texts[i]
            text.new.append(token)
            text.log_probability += log_probability
            text.length += 1
            text.left -= 1
            self._last[i] = token

    @torch.inference_mode()
    def keep(self, places: Sequence[int]) -> None:
        """Drop all texts except those at `places`."""
        self.texts = [self.texts[i] for i in places]
        self._last = [self._last[i] for i in places]
        self._cache.keep(places)


class _SharedCache(Cache):
    """Keys and values (B, heads, W, d) of texts of different lengths, aligned at the right edge.

    Layers differ in width: before the first replaced layer there is no perceptual token.
    """

    def __init__(self, num_layers: int):
        self.roomy = [RoomyLayer() for _ in range(num_layers)]
        super().__init__(layers=list(self.roomy))
        self.lengths: list[list[int]] = [[] for _ in range(num_layers)]  # of each layer, rows of each text
        self._masks: dict[tuple[int, ...], Tensor | None] = {}  # by the lengths of a layer
        self._keys: list[tuple[int, ...]] = []  # of each layer, its lengths when the masks were made
        self._steps = 0  # since the masks were made

    def add(self, layers: Sequence[tuple[Tensor, Tensor]], pads: Sequence[int]) -> None:
        """Append texts: keys and values (b, heads, n, d) of every layer.

        Args:
            pads: how many of the first n are void, of each text.
        """
        for i, (keys, values) in enumerate(layers):
            self.roomy[i].append_rows(keys, values)
            self.lengths[i] += [keys.shape[2] - pad for pad in pads]
        self._keys = []

    def keep(self, places: Sequence[int]) -> None:
        for i, layer in enumerate(self.roomy):
            self.lengths[i] = [self.lengths[i][place] for place in places]
            layer.keep(places, max(self.lengths[i], default=0))
        self._keys = []

    def cut(self, number: int) -> None:
        """Drop all texts but the first, from those layers that have more."""
        for i, layer in enumerate(self.roomy):
            self.lengths[i] = self.lengths[i][:number]
            layer.cut(number, max(self.lengths[i], default=0))
        self._keys = []

    def masks(self, dtype: torch.dtype) -> list[Tensor | None]:
        """For every layer, the mask (B, 1, 1, W + 1) for one new row of each text; None = sees everything.

        Call once before every step, which then adds that row.
        """
        if not self._keys or self._steps == ROOM:
            self._keys, self._masks, self._steps = [tuple(n) for n in self.lengths], {}, 0
            for lengths, layer in zip(self._keys, self.roomy, strict=True):
                if lengths not in self._masks:
                    self._masks[lengths] = _visible(lengths, layer.room[0].device, dtype)
        self._steps += 1
        widths = {key: max(key) + self._steps for key in self._masks}
        shown = {key: None if m is None else m[..., : widths[key]] for key, m in self._masks.items()}
        self.lengths = [[n + 1 for n in lengths] for lengths in self.lengths]
        return [shown[key] for key in self._keys]


def _visible(lengths: Sequence[int], device: torch.device, dtype: torch.dtype) -> Tensor | None:
    """Additive mask (B, 1, 1, W + ROOM) that hides the empty columns left of each text; None if none are."""
    width = max(lengths)
    if min(lengths) == width:
        return None
    column = torch.arange(width + ROOM, device=device)
    hidden = column < (width - torch.tensor(lengths, device=device))[:, None]
    mask = torch.zeros(hidden.shape, dtype=dtype, device=device)
    return mask.masked_fill(hidden, torch.finfo(dtype).min)[:, None, None]


def _end_ids(lm: InjectedLM) -> set[int]:
    end = lm.generation_config.eos_token_id
    return set() if end is None else set(end if isinstance(end, list) else [end])
