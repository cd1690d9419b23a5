"""How probable an answer is: the log-probability of each of its tokens, exactly as decoding saw them.

In `causal` mode one pass over the whole answer tells all of them. In `reference` mode the perceptual token
sees the text, so a pass over a longer text changes what was computed for a shorter one: there each token is
scored in a pass over what stood before it, which is what generation did.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from epalm.config import InjectionConfig
from epalm.decoding import InjectedLM


@dataclass(frozen=True)
class Answer:
    """A text, and how sure the model is of it.

    Attributes:
        log_probability: mean per generated token, the end token included, in nats.
        confidence: how often the adapter's answers with this log-probability are right, in 0…1, measured on
            held-out files; None for an adapter that was never measured.
    """

    text: str
    log_probability: float
    confidence: float | None


def token_log_probabilities(
    lm: InjectedLM,
    input_ids: Tensor,
    attention_mask: Tensor,
    answers: Tensor,
    answer_mask: Tensor,
    prompt: Tensor | None,
    tokens: Tensor | None,
    injection: InjectionConfig,
) -> Tensor:
    """Log-probability of every answer token, given all before it. Differentiable.

    Args:
        input_ids, attention_mask: (B, T) text before the answer, padded on the left.
        answers, answer_mask: (B, A) ids of the answers, padded on the right; 1 = counts.
        prompt, tokens, injection: as in `InjectedLM.forward`.
    Returns:
        (B, A) float32 or better, in nats; 0 where the mask is 0.
    """
    length = answers.shape[1]
    ids = torch.cat([input_ids, answers], dim=1)
    if injection.mask == "causal" or tokens is None:
        mask = torch.cat([attention_mask, answer_mask], dim=1)
        out = lm(ids, mask, prompt, tokens, injection, logits_to_keep=length + 1)
        logits = out.logits[:, :-1]
    else:
        # An answer that has ended goes on with padding; what is computed for it there is not used.
        mask = torch.cat([attention_mask, torch.ones_like(answer_mask)], dim=1)
        start = input_ids.shape[1]
        steps = [
            lm(ids[:, :end], mask[:, :end], prompt, tokens, injection, logits_to_keep=1).logits
            for end in range(start, start + length)
        ]
        logits = torch.cat(steps, dim=1)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    chosen = logits.log_softmax(-1).gather(2, answers[..., None])[..., 0]
    return torch.where(answer_mask.bool(), chosen, 0.0)


def up_to_end(ids: Sequence[int], stops: Collection[int]) -> list[int]:
    """Generated ids up to and including the first end token."""
    end = next((i for i, token in enumerate(ids) if token in stops), len(ids))
    return list(ids[: end + 1])
