"""How much each perceptual token contributed to each word of an answer."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from epalm.config import InjectionConfig
from epalm.decoding import InjectedLM
from epalm.injection import injection_schedule
from epalm.scoring import token_log_probabilities


@torch.no_grad()
def contributions(
    lm: InjectedLM,
    input_ids: Tensor,
    answer: Tensor,
    prompt: Tensor | None,
    tokens: Tensor,
    means: Tensor,
    injection: InjectionConfig,
) -> tuple[Tensor, Tensor]:
    """How much an answer's log-probability drops when one perceptual token is replaced.

    Every pass has the same shape, so replacing a token by itself gives a drop of exactly 0.

    Args:
        input_ids: (1, T) text before the answer; answer: (1, A) its ids.
        prompt: (1, P, E) soft prompt, or None.
        tokens: (1, n, H) perceptual tokens; means: (1, n, H) their replacements, used one at a time.
    Returns:
        (A,) log-probability of every answer token, and (n, A) its drop in nats when each perceptual token is
        replaced. Negative where the perceptual token counts against the word.
    """

    def score(seen: Tensor) -> Tensor:
        given = torch.ones_like(input_ids), torch.ones_like(answer)
        return token_log_probabilities(lm, input_ids, given[0], answer, given[1], prompt, seen, injection)[0]

    whole = score(tokens)
    drops = []
    for j in range(tokens.shape[1]):
        changed = tokens.clone()
        changed[:, j] = means[:, j]
        drops.append(whole - score(changed))
    return whole, torch.stack(drops)


def layers_of_tokens(injection: InjectionConfig, num_layers: int, num_tokens: int) -> list[tuple[int, ...]]:
    """For each perceptual token, the LM layers it enters; empty if the layer range is too short for it."""
    schedule = injection_schedule(injection, num_layers, num_tokens)
    return [tuple(i for i, token in enumerate(schedule) if token == j) for j in range(num_tokens)]


def words_of(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[tuple[str, list[int]]]:
    """The words of generated text with the positions of their tokens; special tokens belong to no word."""
    special = set(tokenizer.all_special_ids)

    def decoded(count: int) -> str:
        return str(tokenizer.decode(list(ids[:count]), skip_special_tokens=True))

    text = decoded(len(ids))
    found = list(re.finditer(r"\S+", text))
    members: list[list[int]] = [[] for _ in found]
    for i, token in enumerate(ids):
        if token in special or not found:
            continue
        # An incomplete multi-byte character counts as ending where it began.
        end = len(decoded(i + 1).rstrip("\ufffd"))
        word = next((w for w, match in enumerate(found) if match.end() >= end), len(found) - 1)
        members[word].append(i)
    return [(match.group(), part) for match, part in zip(found, members, strict=True)]
