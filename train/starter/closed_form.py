"""Where an adapter's linear maps start: computed, not drawn at random.

A token should do to the LM what the words would have done. For each thing there is a sentence, such as "You
can hear a dog barking", and what the LM holds of its last word where the token enters is the target: the mean
over all things becomes the map's bias, the difference from it is what the features have to give.

Class probabilities are a basis already, so the column of a class is that difference. Features of other kinds
are mapped by ridge regression on examples.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from epalm.adapter import Adapter
from epalm.config import FeatureLayer
from epalm.decoding import InjectedLM
from epalm.injection import injection_schedule

PENALTY = 0.3  # of the ridge regression, relative to the features' mean variance
AT_ONCE = 64  # sentences that the LM reads
OTHERS = 0.3  # what the random columns beside those of class probabilities are multiplied with


def entry_layers(adapter: Adapter) -> dict[int, int]:
    """Token -> the first LM layer that reads it; tokens that no layer reads are left out."""
    config = adapter.config
    schedule = injection_schedule(config.injection, config.lm.num_layers, config.num_tokens)
    return {j: schedule.index(j) for j in range(config.num_tokens) if j in schedule}


@torch.no_grad()
def last_states(
    lm: InjectedLM, tokenizer: PreTrainedTokenizerBase, sentences: Sequence[str], layers: Sequence[int]
) -> dict[int, Tensor]:
    """What enters each of these LM layers at the last token of each sentence: {layer: (N, H)} in float32."""
    by_length: dict[int, list[tuple[int, list[int]]]] = defaultdict(list)  # without padding
    for i, sentence in enumerate(sentences):
        ids = tokenizer(sentence)["input_ids"]
        by_length[len(ids)].append((i, ids))
    states: dict[int, list[Tensor]] = {layer: [torch.empty(0)] * len(sentences) for layer in layers}
    for group in by_length.values():
        for start in range(0, len(group), AT_ONCE):
            numbers, rows = zip(*group[start : start + AT_ONCE], strict=True)
            batch = torch.tensor(rows, device=lm.device)
            hidden = lm.base(batch, output_hidden_states=True, logits_to_keep=1).hidden_states
            for layer in layers:
                for i, state in zip(numbers, hidden[layer][:, -1].float().cpu(), strict=True):
                    states[layer][i] = state
    return {layer: torch.stack(each) for layer, each in states.items()}


def standardised(
    raw: Sequence[Tensor],
    layers: Sequence[FeatureLayer],
    scales: Mapping[FeatureLayer, tuple[Tensor, Tensor]],
) -> list[Tensor]:
    """Every token's feature with zero mean and unit variance.

    Args:
        layers: of the encoder, of which each token is made.
        scales: (mean, std) of these.
    """
    return [(f - scales[layer][0]) / scales[layer][1] for f, layer in zip(raw, layers, strict=True)]


def ridge(features: Tensor, targets: Tensor, weights: Tensor, penalty: float = PENALTY) -> Tensor:
    """The (H, D) map of standardised features (N, D) that is nearest to the targets (N, H).

    Args:
        weights: (N,) of the examples, 1 on average.
        penalty: on the map's squares, relative to the features' mean variance.
    """
    weighted = features * weights[:, None]
    square = weighted.T @ features / len(features)  # (D, D)
    square.diagonal().add_(penalty * square.diagonal().mean())
    return torch.linalg.solve(square, weighted.T @ targets / len(features)).T


def start_by_regression(
    adapter: Adapter,
    lm: InjectedLM,
    tokenizer: PreTrainedTokenizerBase,
    features: Sequence[Tensor],
    sentences: Sequence[str],
    weights: Tensor,
) -> None:
    """Set every connector to the map from standardised features to what the sentences leave in the LM.

    Args:
        features: (N, D_j) of every token.
        sentences: N of them, what each example shows; the same one may occur often.
    """
    entries = entry_layers(adapter)
    different = sorted(set(sentences))
    states = last_states(lm, tokenizer, different, sorted(set(entries.values())))
    number = {sentence: i for i, sentence in enumerate(different)}
    shown = torch.tensor([number[sentence] for sentence in sentences])
    weights = weights / weights.mean()
    for j, layer in entries.items():
        targets = states[layer][shown]
        mean = (targets * weights[:, None]).mean(0)
        set_map(adapter, j, ridge(features[j], targets - mean, weights), mean)


def start_by_classes(
    adapter: Adapter,
    lm: InjectedLM,
    tokenizer: PreTrainedTokenizerBase,
    sentences: Sequence[str],
    columns: Mapping[int, slice],
    unit: float,
    states: Mapping[int, Tensor] | None = None,
) -> None:
    """Set the columns of class probabilities to what each class' sentence leaves in the LM.

    Args:
        sentences: one per class.
        columns: by token, where its probabilities stand.
        unit: what a probability is divided by in the standardised feature.
        states: the sentences' `last_states`, if they are known.
    """
    entries = {j: layer for j, layer in entry_layers(adapter).items() if j in columns}
    if states is None:
        states = last_states(lm, tokenizer, sentences, sorted(set(entries.values())))
    for j, layer in entries.items():
        mean = states[layer].mean(0)
        weight = connector(adapter, j).weight.data * OTHERS
        weight[:, columns[j]] = ((states[layer] - mean) * unit).T.to(weight)
        set_map(adapter, j, weight, mean)


def connector(adapter: Adapter, j: int) -> nn.Linear:
    linear = adapter.connector[j]
    assert isinstance(linear, nn.Linear)
    return linear


def set_map(adapter: Adapter, j: int, weight: Tensor, bias: Tensor) -> None:
    """Copy a map into a connector, whatever its device and precision."""
    connector(adapter, j).weight.data.copy_(weight)
    connector(adapter, j).bias.data.copy_(bias)
