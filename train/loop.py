"""The training loop: frozen LM, trained connector and soft prompt, features that were encoded before.

Every step's batch depends on the seed and the step's number alone, and a checkpoint holds adapter,
optimizer and step, so an interrupted run goes on where it was.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from epalm.adapter import Adapter
from epalm.decoding import InjectedLM, text_loss
from epalm.errors import EPALMError
from epalm.text import TaskText


@dataclass(frozen=True)
class Batch:
    """One step's examples."""

    features: list[Tensor]  # n tensors (B, D_j)
    input_ids: Tensor  # (B, T), input and output, padded on the left
    attention_mask: Tensor  # (B, T)
    labels: Tensor  # (B, T), -100 everywhere but on the output


@dataclass(frozen=True)
class Schedule:
    """Optimisation settings: AdamW with linear warm-up and cosine decay to zero."""

    steps: int
    lr: float  # of the connector
    prompt_lr: float
    weight_decay: float = 0.05
    warmup: int = 50
    clip: float = 1.0  # largest gradient norm

    def factor(self, step: int) -> float:
        """What both learning rates are multiplied with at a step."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        return 0.5 * (1 + math.cos(math.pi * (step - self.warmup) / max(1, self.steps - self.warmup)))


def text_batch(texts: list[tuple[list[int], list[int]]], pad_id: int) -> tuple[Tensor, Tensor, Tensor]:
    """(input ids, output ids) pairs -> ids, mask and labels (B, T); the loss is on the outputs alone."""
    width = max(len(before) + len(answer) for before, answer in texts)
    ids = torch.full((len(texts), width), pad_id)
    mask = torch.zeros(len(texts), width, dtype=torch.long)
    labels = torch.full((len(texts), width), -100)
    for row, (before, answer) in enumerate(texts):
        start = width - len(before) - len(answer)
        ids[row, start:] = torch.tensor(before + answer)
        mask[row, start:] = 1
        labels[row, width - len(answer) :] = torch.tensor(answer)
    return ids, mask, labels


def make_batch(features: list[Tensor], examples: Sequence[tuple[str | None, str]], text: TaskText) -> Batch:
    """The features of every token, (B, D_j) each, with B pairs of question (None: a caption) and answer."""
    texts = []
    for question, answer in examples:
        before, after = text.training_text(question, answer)
        texts.append((text.ids(before), text.ids(after)))
    return Batch(features, *text_batch(texts, text.tokenizer.pad_token_id))


def batch_loss(lm: InjectedLM, adapter: Adapter, batch: Batch) -> Tensor:
    """Mean over the batch of the mean cross-entropy of each output's tokens."""
    device = lm.device
    labels = batch.labels.to(device)
    keep = int((labels != -100).any(0).sum()) + 1  # the last rows that predict an output
    prompt = None if adapter.prompt is None else adapter.prompt().expand(len(labels), -1, -1)
    logits = lm(
        batch.input_ids.to(device),
        batch.attention_mask.to(device),
        prompt,
        adapter.tokens([f.to(device) for f in batch.features]),
        adapter.config.injection,
        logits_to_keep=keep,
    ).logits
    labels = labels[:, -keep:]
    per_sample = text_loss(logits, labels).sum(1) / (labels != -100).sum(1)
    return per_sample.mean()


def fit(
    lm: InjectedLM,
    adapter: Adapter,
    batch_at: Callable[[int], Batch],
    schedule: Schedule,
    checkpoint: Path,
    on_log: Callable[[str], None] = print,
    save_every: int = 100,
) -> None:
    """Train `adapter` in place; resumes from `checkpoint` if it exists.

    Args:
        batch_at: the batch of a step, always the same for the same step.
        checkpoint: written every `save_every` steps and at the end, atomically.
    Raises:
        EPALMError: the loss is no number any more, or the checkpoint belongs to other settings.
    """
    prompt = [p for n, p in adapter.named_parameters() if n.startswith("prompt") and p.requires_grad]
    connector = [p for n, p in adapter.named_parameters() if n.startswith("connector") and p.requires_grad]
    groups = [{"params": connector, "base": schedule.lr}]
    if prompt:
        groups.append({"params": prompt, "base": schedule.prompt_lr, "weight_decay": 0.0})
    optimizer = torch.optim.AdamW(groups, lr=schedule.lr, weight_decay=schedule.weight_decay)
    first = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        if state["schedule"] != asdict(schedule):
            raise EPALMError(f"{checkpoint} was made with other settings; remove it to start afresh.")
        adapter.load_state_dict(state["adapter"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
        on_log(f"resuming at step {first} of {schedule.steps}")

    adapter.train()
    start, smooth = time.monotonic(), 0.0
    for step in range(first, schedule.steps):
        for group in optimizer.param_groups:
            group["lr"] = group["base"] * schedule.factor(step)
        loss = batch_loss(lm, adapter, batch_at(step))
        if not torch.isfinite(loss):
            raise EPALMError(f"The loss became {loss.item()} at step {step}; lower the learning rate.")
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(connector + prompt, schedule.clip)
        optimizer.step()

        done = step + 1
        smooth = loss.item() if step == first else 0.95 * smooth + 0.05 * loss.item()
        if done % 20 == 0 or done == schedule.steps:
            pace = (time.monotonic() - start) / (done - first)
            left = pace * (schedule.steps - done) / 60
            on_log(
                f"step {done}/{schedule.steps} loss {smooth:.3f} lr {optimizer.param_groups[0]['lr']:.1e} "
                f"{pace:.2f} s/step {left:.0f} min left"
            )
        if done % save_every == 0 or done == schedule.steps:
            temporary = checkpoint.with_suffix(".tmp")
            checkpoint.parent.mkdir(parents=True, exist_ok=True)
            state = {
                "adapter": adapter.state_dict(),
                "optimizer": optimizer.state_dict(),
                "step": done,
                "schedule": asdict(schedule),
            }
            torch.save(state, temporary)
            os.replace(temporary, checkpoint)
    adapter.eval()
