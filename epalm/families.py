"""What differs between families of language models; a new family is one more class and one more entry.

A family says how the prompt and the text are embedded, which decoder layers are run, which further
arguments they take, and what follows the last layer. Everything else is the same for all of them.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from epalm.errors import EPALMError


class Family(Protocol):
    """Access to the parts of one `transformers` causal LM."""

    @staticmethod
    def embed_size(lm: PreTrainedModel) -> int:
        """E, the width of the token embeddings and of the soft prompt."""

    @staticmethod
    def layers(lm: PreTrainedModel) -> nn.ModuleList:
        """The N decoder layers."""

    @staticmethod
    def embed(lm: PreTrainedModel, prompt: Tensor | None, ids: Tensor, positions: Tensor) -> Tensor:
        """(B, P, E) prompt and (B, T) ids at text positions (B, T), -1 = padding -> (B, P + T, H)."""

    @staticmethod
    def layer_kwargs(lm: PreTrainedModel, hidden: Tensor, positions: Tensor) -> dict[str, Any]:
        """Arguments that depend on the rows' absolute positions (B, rows): rotary embeddings."""

    @staticmethod
    def head(lm: PreTrainedModel, hidden: Tensor) -> Tensor:
        """(B, rows, H) output of the last layer -> (B, rows, V) logits."""


class OPT:
    """OPT, pre-norm and the post-norm 350m flavour.

    Learned positions count only the text, as if there were no prompt; prompt rows get none, and in the
    350m flavour the prompt lives in the narrower embedding space and passes `project_in` with the text.
    """

    @staticmethod
    def embed_size(lm: PreTrainedModel) -> int:
        return lm.config.word_embed_proj_dim

    @staticmethod
    def layers(lm: PreTrainedModel) -> nn.ModuleList:
        return lm.model.decoder.layers

    @staticmethod
    def embed(lm: PreTrainedModel, prompt: Tensor | None, ids: Tensor, positions: Tensor) -> Tensor:
        decoder = lm.model.decoder
        hidden = _prepend(prompt, decoder.embed_tokens(ids))
        if decoder.project_in is not None:
            hidden = decoder.project_in(hidden)
        at = decoder.embed_positions(None, position_ids=positions)  # (B, T, H)
        return hidden + nn.functional.pad(at, (0, 0, hidden.shape[1] - at.shape[1], 0)).to(hidden)

    @staticmethod
    def layer_kwargs(lm: PreTrainedModel, hidden: Tensor, positions: Tensor) -> dict[str, Any]:
        return {}

    @staticmethod
    def head(lm: PreTrainedModel, hidden: Tensor) -> Tensor:
        decoder = lm.model.decoder
        if decoder.final_layer_norm is not None:
            hidden = decoder.final_layer_norm(hidden)
        if decoder.project_out is not None:
            hidden = decoder.project_out(hidden)
        return lm.lm_head(hidden)


class Llama:
    """Llama-type models (SmolLM2): rotary positions, the perceptual token first, then prompt and text."""

    @staticmethod
    def embed_size(lm: PreTrainedModel) -> int:
        return lm.config.hidden_size

    @staticmethod
    def layers(lm: PreTrainedModel) -> nn.ModuleList:
        return lm.model.layers

    @staticmethod
    def embed(lm: PreTrainedModel, prompt: Tensor | None, ids: Tensor, positions: Tensor) -> Tensor:
        return _prepend(prompt, lm.model.embed_tokens(ids))

    @staticmethod
    def layer_kwargs(lm: PreTrainedModel, hidden: Tensor, positions: Tensor) -> dict[str, Any]:
        return {"position_embeddings": lm.model.rotary_emb(hidden, position_ids=positions)}

    @staticmethod
    def head(lm: PreTrainedModel, hidden: Tensor) -> Tensor:
        return lm.lm_head(lm.model.norm(hidden))


def _prepend(prompt: Tensor | None, text: Tensor) -> Tensor:
    return text if prompt is None else torch.cat([prompt.to(text), text], dim=1)


FAMILIES: dict[str, type[Family]] = {"opt": OPT, "llama": Llama}


def family_of(lm: PreTrainedModel) -> type[Family]:
    """The family of a loaded LM; EPALMError for one that is not supported yet."""
    kind = lm.config.model_type
    if kind not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        raise EPALMError(f"Language models of type '{kind}' are not supported; supported types: {known}.")
    return FAMILIES[kind]
