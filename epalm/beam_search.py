"""Beam search as the original scored it, for the published adapters' defaults.

Today's library divides a hypothesis' log-probability by the number of *generated* tokens; the version that
the original ran on divides by the *whole* length (first token, question and padding included), which can let
another hypothesis win. The rest is the same search: 2K candidates per step, K kept, the best K hypotheses.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer
from transformers.generation.utils import GenerateBeamDecoderOnlyOutput

NEVER = -1e9  # starting score of all beams but the first, so that the first step draws K different tokens


@dataclass
class _Hypotheses:
    """The best K finished hypotheses of one sample."""

    size: int
    found: list[tuple[float, list[int]]] = field(default_factory=list)  # (value, ids without the end token)
    done: bool = False

    def add(self, ids: list[int], log_prob: float) -> None:
        value = log_prob / len(ids)
        if len(self.found) < self.size or value > min(v for v, _ in self.found):
            self.found.append((value, ids))
            if len(self.found) > self.size:
                self.found.remove(min(self.found, key=lambda h: h[0]))

    def is_final(self, best_log_prob: float, length: int) -> bool:
        """No open beam can beat the worst stored hypothesis at this length."""
        return len(self.found) == self.size and min(v for v, _ in self.found) >= best_log_prob / length

    def best(self, count: int) -> list[tuple[float, list[int]]]:
        """Value and ids of the best hypotheses, best first; of equal ones, the one found last is first."""
        newest_first = self.found[::-1]
        return sorted(newest_first, key=lambda h: h[0], reverse=True)[:count]


def reference_beam_search(
    model: Any,
    input_ids: Tensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    streamer: BaseStreamer | None = None,
    **model_kwargs: Any,
) -> Tensor | GenerateBeamDecoderOnlyOutput:
    """Deterministic beam search with the original's length normalisation; a `custom_generate` method.

    Args:
        input_ids: (B * K, T), each sample's rows repeated K times by `generate`.
        stopping_criteria: only the length limit counts here, as in the original.
    Returns:
        (B * R, L) ids of each sample's best R = `num_return_sequences` hypotheses, with the end token where
        it fits, then padding; with their values (`sequences_scores`) if `return_dict_in_generate`.
    """
    beams = generation_config.num_beams
    batch = input_ids.shape[0] // beams
    limit = generation_config.max_length
    prepared: Any = generation_config  # `generate` has put the special tokens there
    end = set(prepared._eos_token_tensor.flatten().tolist())
    pad: int = prepared._pad_token_tensor.item()
    device = input_ids.device

    store = [_Hypotheses(beams) for _ in range(batch)]
    scores = torch.full((batch, beams), NEVER, device=device)
    scores[:, 0] = 0.0
    cache = model_kwargs.get("past_key_values")
    new = None if cache is None else input_ids.shape[1] - cache.get_seq_length()
    first = True
    while True:
        inputs = model.prepare_inputs_for_generation(
            input_ids, next_sequence_length=new, is_first_iteration=first, **model_kwargs
        )
        outputs = model(**inputs, return_dict=True)
        model_kwargs = model._update_model_kwargs_for_generation(outputs, model_kwargs)
        new, first = (1 if model_kwargs.get("use_cache") else None), False

        logits = outputs.logits[:, -1].float().to(device)
        log_probs = logits_processor(cast(torch.LongTensor, input_ids), logits.log_softmax(-1))  # (B * K, V)
        vocab = log_probs.shape[-1]
        sums = (log_probs.view(batch, beams, vocab) + scores[..., None]).view(batch, -1)
        top, flat = sums.topk(2 * beams, dim=1)  # sorted, best first
        next_beam: list[list[int]] = (flat // vocab).tolist()
        next_token: list[list[int]] = (flat % vocab).tolist()
        values = top.tolist()

        length = input_ids.shape[1]
        chosen: list[tuple[float, int, int]] = []  # (score, token, row of input_ids) for each new row
        for sample in range(batch):
            first_row = sample * beams
            if store[sample].done:
                chosen += [(0.0, pad, first_row)] * beams
                continue
            kept: list[tuple[float, int, int]] = []
            for rank in range(2 * beams):
                value, token = values[sample][rank], next_token[sample][rank]
                row = first_row + next_beam[sample][rank]
                if token in end:
                    if rank < beams:
                        store[sample].add(input_ids[row].tolist(), value)
                elif len(kept) < beams:
                    kept.append((value, token, row))
            store[sample].done = store[sample].is_final(values[sample][0], length)
            chosen += kept

        rows = torch.tensor([row for _, _, row in chosen], device=device)
        tokens = torch.tensor([token for _, token, _ in chosen], device=device)
        scores = torch.tensor([score for score, _, _ in chosen], device=device).view(batch, beams)
        input_ids = torch.cat([input_ids[rows], tokens[:, None]], dim=1)
        if model_kwargs.get("past_key_values") is not None:
            model_kwargs["past_key_values"].reorder_cache(rows)
        if all(s.done for s in store) or input_ids.shape[1] >= limit:
            break

    for sample, hypotheses in enumerate(store):
        if not hypotheses.done:
            for row in range(sample * beams, (sample + 1) * beams):
                hypotheses.add(input_ids[row].tolist(), scores.flatten()[row].item())
    wanted = generation_config.num_return_sequences or 1
    best = [found for hypotheses in store for found in hypotheses.best(wanted)]
    width = min(max(len(ids) for _, ids in best) + 1, limit)
    result = input_ids.new_full((len(best), width), pad)
    for row, (_, ids) in enumerate(best):
        closed = (ids + [min(end)])[:width]
        result[row, : len(closed)] = torch.tensor(closed, device=device)
    if generation_config.return_dict_in_generate:
        return GenerateBeamDecoderOnlyOutput(
            sequences=cast(torch.LongTensor, result),
            sequences_scores=torch.tensor([value for value, _ in best], device=device),
        )
    return result
