"""A frozen LM with injection: one forward pass, and decoding through the library's `generate`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import lru_cache
from typing import Any, cast

import torch
from torch import Tensor
from transformers import GenerationMixin, PreTrainedModel
from transformers.generation.streamers import BaseStreamer
from transformers.modeling_outputs import CausalLMOutputWithPast

from epalm.beam_search import reference_beam_search
from epalm.config import GenerationConfig, InjectionConfig
from epalm.cpu import pack
from epalm.errors import EPALMError
from epalm.families import family_of
from epalm.injection import Masks, deep_prompt, injection_schedule, run_layers
from epalm.injection_cache import Beginning, CachePlan, InjectedCache, run_layers_cached

PROMPTS = 16  # soft prompts whose beginning is remembered


class InjectedLM(PreTrainedModel, GenerationMixin):
    """A frozen `transformers` causal LM that takes a soft prompt and perceptual tokens.

    It owns no parameters: the LM `base` is used through its own layers. `generate` is the library's, so
    greedy search, beam search, sampling and streaming come from there.
    """

    _supports_sdpa = True
    _supports_attention_backend = True

    def __init__(self, base: PreTrainedModel):
        super().__init__(base.config)
        self.base = base
        self.family = family_of(base)
        self.generation_config = base.generation_config
        self.num_layers = len(self.family.layers(base))
        self._beginnings: list[Beginning] = []  # of the prompts used last
        self._has_decoded = False

    def new_cache(self, injection: InjectionConfig, num_tokens: int, prompt_len: int) -> InjectedCache:
        """An empty cache for passes with so many perceptual tokens (0 = text alone) and prompt rows."""
        return InjectedCache(CachePlan.of(injection, self.num_layers, num_tokens), prompt_len)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        prompt: Tensor | None = None,
        tokens: Tensor | None = None,
        injection: InjectionConfig | None = None,
        past_key_values: InjectedCache | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        return_dict: bool = True,
    ) -> CausalLMOutputWithPast:
        """One pass of the LM.

        Args:
            input_ids: (B, T) text; with a filled cache only the new tokens.
            attention_mask: (B, T_all) 1 = text, 0 = padding, cached tokens included; None = no padding.
            prompt: (B, P, E) soft prompt, (B, P, 1 + L, E) if it is deep (see `deep_prompt`), or None.
            tokens: (B, n, H) perceptual tokens, or None for text alone.
            injection: where the tokens enter; needed with `tokens`.
            past_key_values: made by `new_cache`; filled in place.
            logits_to_keep: compute logits of the last rows only; 0 = of all rows.
        Returns:
            `.logits` (B, R, V): rows are [perceptual token][prompt][text] in a fresh pass (R = 1 + P + T).
        """
        last = self._last_layer(input_ids, attention_mask, prompt, tokens, injection, past_key_values)
        logits = self.family.head(self.base, last[:, -logits_to_keep:])
        return CausalLMOutputWithPast(logits=logits, past_key_values=past_key_values)

    def _last_layer(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        prompt: Tensor | None,
        tokens: Tensor | None,
        injection: InjectionConfig | None,
        past_key_values: InjectedCache | None,
    ) -> Tensor:
        """What leaves the last layer (B, R, H), before the logits; arguments as in `forward`."""
        prompt, deep = deep_prompt(prompt)
        prompt_len = 0 if prompt is None else prompt.shape[1]
        new = input_ids.shape[1]
        fresh = past_key_values is None or past_key_values.is_empty
        seen = 0 if past_key_values is None else past_key_values.get_seq_length()
        if attention_mask is None:
            attention_mask = input_ids.new_ones(input_ids.shape[0], seen + new)
        if injection is None:
            injection, tokens = InjectionConfig(0, 0), None

        text = attention_mask.cumsum(1) * attention_mask - 1  # (B, T_all), -1 = padding
        beginning = None
        if fresh and past_key_values is not None and prompt is not None and tokens is not None:
            beginning = self._beginning(prompt, past_key_values)
        embedded = prompt if fresh and beginning is None else None
        hidden = self.family.embed(self.base, embedded, input_ids, text[:, seen:])
        if self.base.training:  # as OPT was once trained, and the original trains; the library leaves it out
            hidden = torch.nn.functional.dropout(hidden, getattr(self.base.config, "dropout", 0.0))
        ahead = torch.arange(1 + prompt_len, device=text.device).expand(text.shape[0], -1)
        rows_at = torch.cat([ahead, text.clamp(min=0) + 1 + prompt_len], dim=1)  # (B, 1 + P + T_all)

        @lru_cache
        def layer_kwargs(text_rows: int, row: bool) -> dict[str, Any]:
            at = rows_at[:, rows_at.shape[1] - text_rows :]
            at = torch.cat([rows_at[:, :1], at], 1) if row else at
            return self.family.layer_kwargs(self.base, hidden, at)

        layers = self.family.layers(self.base)
        masks = Masks(attention_mask, prompt_len, injection.mask == "reference", hidden.dtype)
        if past_key_values is None:
            schedule = injection_schedule(
                injection, self.num_layers, 0 if tokens is None else tokens.shape[1]
            )
            return run_layers(layers, hidden, tokens, schedule, masks, layer_kwargs, deep)
        added = deep if fresh else None
        return run_layers_cached(
            layers, hidden, tokens, past_key_values, masks, layer_kwargs, beginning, added
        )

    def _beginning(self, prompt: Tensor, cache: InjectedCache) -> Beginning | None:
        """The rows of a prompt (B, P, E) below the first replaced layer, computed once per prompt; None where
        there are none, many items have different prompts, or gradients are wanted."""
        first = cache.plan.first_replaced_layer
        if first == 0 or torch.is_grad_enabled() or self.base.training:
            return None
        if len(prompt) > 1 and prompt.stride(0) != 0:
            each = [self._beginning(row[None], cache) for row in prompt] if len(prompt) <= 2 * PROMPTS else []
            known_ones = [beginning for beginning in each if beginning is not None]
            return Beginning.of_several(known_ones) if known_ones else None
        prompt = prompt[:1]
        for known in self._beginnings:
            if known.is_of(prompt, first):
                return known
        rows = prompt.shape[1]
        text = torch.zeros(1, 0, dtype=torch.long, device=prompt.device)
        hidden = self.family.embed(self.base, prompt, text, text)
        mask = Masks(text, rows, False, hidden.dtype)(rows, column=False, row=False)
        at = torch.arange(1, 1 + rows, device=prompt.device)[None]  # row 0 is the perceptual token's
        further = self.family.layer_kwargs(self.base, hidden, at)
        filled = InjectedCache(cache.plan, rows)
        for layer in self.family.layers(self.base)[:first]:
            hidden = layer(hidden, attention_mask=mask, past_key_values=filled, **further)
        layers = [(layer.keys, layer.values) for layer in cast(list[Any], filled.layers)[:first]]
        made = Beginning(prompt.clone(), layers, hidden)
        self._beginnings = [made, *self._beginnings][:PROMPTS]
        return made

    @torch.inference_mode()
    def decode(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        prompt: Tensor | None,
        tokens: Tensor | None,
        injection: InjectionConfig,
        generation: GenerationConfig,
        use_cache: bool = True,
        streamer: BaseStreamer | None = None,
        **options: Any,
    ) -> Tensor:
        """Generate text ids after `input_ids`.

        Args:
            input_ids, attention_mask, prompt, tokens, injection: as in `forward`.
            generation: beams, length and beam scoring.
            use_cache: False re-runs the whole prefix at every step, as the original does; same tokens.
            options: passed to `transformers`' `generate` (do_sample, temperature, stopping_criteria, …).
        Returns:
            (B, T + new) ids; shorter texts are padded with the LM's pad token after their end.
        """
        if use_cache:
            num_tokens, prompt_len = (0 if x is None else x.shape[1] for x in (tokens, prompt))
            cache = self.new_cache(injection, num_tokens, prompt_len)
            if generation.num_beams > 1 and prompt_len + input_ids.shape[1] > 1:
                # All beams begin alike: compute what they share once. The last token is left for `generate`.
                known, seen = input_ids[:, :-1], attention_mask[:, :-1]
                self._last_layer(known, seen, prompt, tokens, injection, cache)
                cache.batch_repeat_interleave(generation.num_beams)
                prompt, _ = deep_prompt(prompt)  # it is in the cache, and would be copied for every beam
            # A single text on one beam is finished sooner than the weights are laid out; more are not.
            if self._has_decoded or len(input_ids) * generation.num_beams > 1:
                pack(self.base)
            self._has_decoded = True
            options["past_key_values"] = cache
        method: Callable | None = None
        if generation.num_beams > 1 and generation.beam_scoring == "reference":
            method = reference_beam_search
        length = {"max_new_tokens": generation.max_new_tokens}
        if generation.max_length is not None:
            # A question as long as the limit gets one token (in the original greedy too, while beams crash).
            length = {"max_length": max(generation.max_length, input_ids.shape[1] + 1)}
        return self.generate(  # type: ignore[misc, return-value]
            input_ids,
            attention_mask=attention_mask,
            prompt=prompt,
            tokens=tokens,
            injection=injection,
            use_cache=use_cache,
            num_beams=generation.num_beams,
            custom_generate=method,
            streamer=streamer,
            **{"do_sample": False} | length | options,
        )


def text_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of every text token given what precedes it.

    Args:
        logits: (B, R, V), the last T of the R rows being text.
        labels: (B, T), -100 where a token is not to be predicted.
    Returns:
        (B, T - 1) float32 or better, 0 where the label is -100. The original sums it over positions,
        averages over the batch and multiplies by 0.1.
    """
    predicted = logits[:, -labels.shape[1] : -1].transpose(1, 2)
    predicted = predicted.to(torch.promote_types(predicted.dtype, torch.float32))
    return torch.nn.functional.cross_entropy(predicted, labels[:, 1:], reduction="none", ignore_index=-100)


def with_overrides(
    defaults: GenerationConfig, beams: int | None, max_new_tokens: int | None
) -> GenerationConfig:
    """An adapter's decoding defaults with a call's own number of beams and length; EPALMError below 1."""
    for name, value in (("number of beams", beams), ("longest text in tokens", max_new_tokens)):
        if value is not None and value < 1:
            raise EPALMError(f"The {name} is {value}, but it must be at least 1.")
    changed: dict[str, Any] = {} if beams is None else {"num_beams": beams}
    if max_new_tokens is not None:
        changed |= {"max_new_tokens": max_new_tokens, "max_length": None}
    return dataclasses.replace(defaults, **changed)
