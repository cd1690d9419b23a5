"""The model of the paper: one frozen LM, one adapter, and the adapter's text templates.

Encoder features -> connectors -> perceptual tokens, injected into the frozen LM; a soft prompt precedes the
text. Training, evaluation, recorded runs and `EPALM` all use this class. `forward` is the plain pass, `loss`
the shortened pass of training, and `generate` the cached pass; tests check that they agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from epalm.adapter import Adapter
from epalm.config import GenerationConfig
from epalm.decoding import InjectedLM, text_loss
from epalm.scoring import token_log_probabilities, up_to_end
from epalm.text import TaskText, pad_left
from epalm.training_pass import labelled_losses


class AdaptedLM(nn.Module):
    """A frozen LM that perceives through one adapter.

    The frozen LM is not a submodule: parameters and state are only those of the adapter, which is all that an
    optimizer, a checkpoint or other processes need.

    Args:
        lm: the frozen LM with injection; adapters of one LM share it.
        adapter: trained for this LM.
        tokenizer: the LM's; None if all inputs are ids already (recorded runs).
    """

    def __init__(self, lm: InjectedLM, adapter: Adapter, tokenizer: PreTrainedTokenizerBase | None):
        super().__init__()
        self.adapter = adapter
        self._frozen = (lm, None if tokenizer is None else TaskText(adapter.config.task, tokenizer))

    @property
    def lm(self) -> InjectedLM:
        """The frozen LM with injection."""
        return self._frozen[0]

    @property
    def text(self) -> TaskText:
        """The adapter's text template with the LM's tokenizer."""
        text = self._frozen[1]
        if text is None:
            raise ValueError("This adapted LM was made without a tokenizer.")
        return text

    @property
    def device(self) -> torch.device:
        """Device of the LM's input."""
        return self.lm.device

    @property
    def pads_visible(self) -> bool:
        """Whether the perceptual token sees padding (mask mode `reference`), which changes the output."""
        return self.adapter.config.injection.mask == "reference"

    def forward(
        self,
        features: Sequence[Tensor] | None,
        ids: Tensor,
        mask: Tensor | None = None,
        logits_to_keep: int = 0,
    ) -> Tensor:
        """Logits of `[perceptual token][soft prompt][text]`.

        Args:
            features: n encoder features (B, D_j), or None for text alone, without a perceptual token.
            ids: (B, T) text.
            mask: (B, T) 1 = text, 0 = padding; None = no padding.
            logits_to_keep: compute logits only for the last rows; 0 = for all rows.
        Returns:
            (B, R, V); for all rows R = 1 + P + T.
        """
        # The LM has its precision and the adapter has float32 or better: autocast has nothing to choose.
        with torch.autocast(ids.device.type, enabled=False):
            tokens = None if features is None else self.adapter.tokens(features)
            prompt = self.prompt_rows(len(ids))
            injection = self.adapter.config.injection
            return self.lm(ids, mask, prompt, tokens, injection, logits_to_keep=logits_to_keep).logits

    def prompt_rows(self, batch: int) -> Tensor | None:
        """(B, P, E) soft prompt, the same for every item; (B, P, 1 + L, E) if it is deep, None if there is
        none."""
        if self.adapter.prompt is None:
            return None
        rows = self.adapter.prompt()
        return rows.expand(batch, *rows.shape)

    def loss(
        self, features: Sequence[Tensor] | None, ids: Tensor, mask: Tensor | None, labels: Tensor
    ) -> Tensor:
        """Cross-entropy of every labelled token given the tokens before it.

        Args:
            features, ids, mask: as in `forward`.
            labels: (B, T) the ids to predict, -100 elsewhere.
        Returns:
            (B, T - 1) in float32 or better, 0 where the label is -100. The training regime reduces them.
        """
        if self.lm.base.training or mask is None:  # with dropout, texts have no rows in common
            return text_loss(self(features, ids, mask), labels)
        with torch.autocast(ids.device.type, enabled=False):
            tokens = None if features is None else self.adapter.tokens(features)
            prompt = None if self.adapter.prompt is None else self.adapter.prompt()
            injection = self.adapter.config.injection
            return labelled_losses(self.lm, prompt, tokens, injection, ids, mask, labels)

    def batches(self, inputs: Sequence[Sequence[int]], size: int | None = None) -> list[list[int]]:
        """Group inputs that may be decoded together without changing their texts; returns their indices.

        If padding is visible, only inputs of equal length share a batch.

        Args:
            inputs: lists of ids.
            size: largest batch; None = no limit.
        """
        groups: dict[int, list[int]] = {}
        for i, ids in enumerate(inputs):
            groups.setdefault(len(ids) if self.pads_visible else 0, []).append(i)
        step = size or max(len(inputs), 1)
        return [group[i : i + step] for group in groups.values() for i in range(0, len(group), step)]

    @torch.inference_mode()
    def generate(
        self,
        features: Sequence[Tensor] | None,
        inputs: Sequence[Sequence[int]],
        generation: GenerationConfig | None = None,
        use_cache: bool = True,
        **options: Any,
    ) -> Tensor:
        """Continue a batch of inputs; see `batches` for which inputs may share one.

        Args:
            features: n encoder features (B, D_j), or None for text alone.
            inputs: B lists of text ids.
            generation: beams, length and beam scoring; None = the adapter's defaults.
            use_cache, options: as in `InjectedLM.decode`.
        Returns:
            (B, new) ids after the inputs; shorter texts are padded at the end.
        """
        out = self._decode(features, inputs, generation, use_cache, **options)
        return out[:, max(map(len, inputs)) :]

    def _decode(
        self,
        features: Sequence[Tensor] | None,
        inputs: Sequence[Sequence[int]],
        generation: GenerationConfig | None,
        use_cache: bool,
        **options: Any,
    ) -> Any:
        """What `InjectedLM.decode` gives, the inputs included; arguments as in `generate`."""
        ids, mask = (t.to(self.device) for t in pad_left(inputs, self.text.pad_id))
        tokens = None if features is None else self.adapter.tokens([f.to(self.device) for f in features])
        config = self.adapter.config
        if config.task.end_token is not None:
            options.setdefault("eos_token_id", sorted(self.text.stops))
        return self.lm.decode(
            ids,
            mask,
            self.prompt_rows(len(ids)),
            tokens,
            config.injection,
            generation or config.generation,
            use_cache,
            **options,
        )

    @torch.inference_mode()
    def scored(
        self,
        features: Sequence[Tensor] | None,
        inputs: Sequence[Sequence[int]],
        generation: GenerationConfig | None = None,
    ) -> tuple[list[list[int]], list[float]]:
        """The ids that `generate` gives, and how probable they are, as `log_probabilities` tells.

        With one beam the steps of the decoding tell it; several cost one more pass over the answers, in
        `reference` mask mode one for each of their tokens.
        """
        chosen = generation or self.adapter.config.generation
        if chosen.num_beams > 1:
            rows = self.generate(features, inputs, chosen).tolist()
            return rows, self.log_probabilities(features, inputs, rows)
        found: Any = self._decode(
            features, inputs, chosen, True, return_dict_in_generate=True, output_logits=True
        )
        new = found.sequences[:, -len(found.logits) :]
        steps = zip(found.logits, new.unbind(1), strict=True)
        each = [logits.float().log_softmax(-1).gather(1, ids[:, None]) for logits, ids in steps]
        rows, sure = new.tolist(), torch.cat(each, 1).tolist()
        ends = [len(up_to_end(row, self.text.stops)) for row in rows]
        means = [sum(row[:end]) / end for row, end in zip(sure, ends, strict=True)]
        return rows, means

    @torch.inference_mode()
    def log_probabilities(
        self,
        features: Sequence[Tensor] | None,
        inputs: Sequence[Sequence[int]],
        answers: Sequence[Sequence[int]],
    ) -> list[float]:
        """Log-probabilities of generated answers; see `epalm.scoring`.

        Args:
            features, inputs: as in `generate`, one batch as grouped by `batches`.
            answers: B lists of ids returned by `generate`.
        Returns:
            B means per token, including the end token, in nats.
        """
        rows = [torch.tensor(up_to_end(row, self.text.stops)) for row in answers]
        given = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
        padded = pad_sequence(rows, batch_first=True, padding_value=self.text.pad_id)
        ids, mask = (t.to(self.device) for t in pad_left(inputs, self.text.pad_id))
        found = token_log_probabilities(
            self.lm,
            ids,
            mask,
            padded.to(self.device),
            given.to(self.device),
            self.prompt_rows(len(ids)),
            None if features is None else self.adapter.tokens([f.to(self.device) for f in features]),
            self.adapter.config.injection,
        )
        return (found.sum(1).cpu() / given.sum(1)).tolist()

    def answers(
        self, features: Sequence[Tensor] | None, inputs: Sequence[Sequence[int]], *args: Any, **options: Any
    ) -> list[str]:
        """The texts that `generate` returns."""
        return [self.text.answer(row) for row in self.generate(features, inputs, *args, **options).tolist()]
