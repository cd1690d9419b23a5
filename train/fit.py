"""The training loop: batches from any source, an adapter, and a regime that defines how it learns.

    checkpoint = Checkpoint.open(folder, identity_of(settings), resume=True)
    fit(settings, source, model, regime, checkpoint, validate)

What a step trains on depends only on the seed and the step's number, and the checkpoint is a single file that
is written atomically. So a training that is stopped or killed at any moment and then resumed takes exactly
the steps of one that was never stopped. `train.training` builds the parts from a settings file.
"""

from __future__ import annotations

import math
import random
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm import tqdm

from epalm.adapted import AdaptedLM
from epalm.errors import EPALMError
from train.batches import Batch, Source
from train.checkpoint import Checkpoint, comparable, flat
from train.machine import device_name, new_accelerator, pack_where_there_is_room, peak_memory, stopping
from train.regime import Regime, make_optimizer
from train.run_folder import RunFolder
from train.settings import Settings

PASS_COST = {"cpu": 48, "cuda": 4096}  # fixed cost of a pass through the LM, in token rows
STOPPED = 130  # exit code after Ctrl-C or SIGTERM


@dataclass(frozen=True)
class Verdict:
    """The result of validating an adapter.

    Attributes:
        value: selects the best epoch; higher is better.
        summary: for the log, such as "CIDEr 46.10".
        loss: the validation loss, if it was computed.
    """

    metrics: Mapping[str, float]
    value: float
    summary: str
    loss: float | None = None


def fit(
    settings: Settings,
    source: Source,
    model: AdaptedLM,
    regime: Regime,
    checkpoint: Checkpoint,
    validate: Callable[[], Verdict] | None = None,
    accelerator: Accelerator | None = None,
    encoder: nn.Module | None = None,
) -> int:
    """Train `model.adapter` in place for `settings.optim.epochs` epochs of `source`.

    Args:
        settings: `optim`, `evaluation`, `out` and `trackers` are used.
        checkpoint: the state to start from, and where to save it.
        validate: called on all processes after an epoch; the best adapter is kept in best/.
        encoder: the live encoder, if any; only its parameters are counted.
    Returns:
        0, or 130 if it was stopped, with its state saved.
    Raises:
        EPALMError: the loss became NaN or infinite, or the disk is full.
    """
    accelerator = accelerator or new_accelerator(settings)
    loop = Loop(settings, source, model, regime, checkpoint, validate, accelerator, encoder)
    return STOPPED if loop.run() else 0


class Trainable(nn.Module):
    """The adapted LM with the training loss. Its only parameters are the adapter's."""

    def __init__(self, model: AdaptedLM, regime: Regime):
        super().__init__()
        self.model, self.regime = model, regime

    def forward(self, features: list[Tensor], ids: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
        """Loss of every text, (B,)."""
        return self.regime.loss(self.model.loss(features, ids, mask, labels), labels)


def losses(model: AdaptedLM, regime: Regime, batch: Batch) -> Tensor:
    """Loss of every text of a batch, (B,)."""
    batch = batch.to(model.device)
    return Trainable(model, regime)(batch.features, batch.ids, batch.mask, batch.labels)


class Loop:
    """One training; see `fit` for the arguments."""

    def __init__(
        self,
        settings: Settings,
        source: Source,
        model: AdaptedLM,
        regime: Regime,
        checkpoint: Checkpoint,
        validate: Callable[[], Verdict] | None,
        accelerator: Accelerator,
        encoder: nn.Module | None,
    ):
        self.settings, self.optim, self.source = settings, settings.optim, source
        self.adapted, self.adapter, self.regime, self.encoder = model, model.adapter, regime, encoder
        self.checkpoint, self.judge, self.accelerator = checkpoint, validate, accelerator
        self.world, self.main = accelerator.num_processes, accelerator.is_main_process
        self.steps = source.per_epoch * self.optim.epochs
        pack_where_there_is_room(model.lm.base)
        self.groups = regime.groups(self.adapter)
        self.model, self.optimizer = accelerator.prepare(
            Trainable(model, regime), make_optimizer(self.adapter, self.groups)
        )
        self.progress = checkpoint.restore(self.adapter, self.optimizer, accelerator.scaler)
        self.folder = RunFolder(Path(settings.out), self.main)
        if checkpoint.state is None:
            self.folder.begin(settings)
        else:
            self.folder.go_on(self.progress.step, self.adapter)
            self.say(f"Resuming at step {self.progress.step} of {self.steps}.")
        self.begun = time.monotonic() - self.progress.seconds

    def run(self) -> bool:
        """Train to the end; True if stopped before it."""
        if self.settings.trackers:
            config, places = flat(comparable(self.settings)), {"wandb": {"dir": self.settings.out}}
            self.accelerator.init_trackers("epalm", config, places)
        first, first_time, examples = self.progress.step, time.monotonic(), 0
        bar = tqdm(total=self.steps, initial=first, disable=not self.main, unit="step", dynamic_ncols=True)
        self.training(True)
        with stopping() as stop, bar:
            for step in range(first, self.steps):
                if self.improves_no_more():
                    self.say(f"No improvement since epoch {self.progress.best_epoch}: stopping early.")
                    break
                loss, count = self.step(step)
                self.progress.step = step + 1
                examples += count
                row = self.row(loss, examples / (time.monotonic() - first_time))
                bar.update()
                shown = {"loss": f"{loss:.3f}", "lr": f"{row['lr']:.1e}", "MB": round(row["memory_mb"])}
                bar.set_postfix(shown | {"items/s": f"{row['samples_per_s']:.1f}"})
                self.log(row, {"loss": loss, "lr": row["lr"]})
                if self.ends_epoch():
                    self.validate()
                if self.ends_epoch() or (step + 1) % self.optim.save_every == 0:
                    self.save()
                if self.any_rank(stop["now"]):
                    self.save()
                    self.say(f"Stopped at step {step + 1} of {self.steps}; continue with --resume.")
                    return True
        self.training(False)
        # A training stopped in the validation after its last step has no step left, but no cost.json either.
        if first < self.progress.step or not (self.folder.path / "cost.json").exists():
            self.folder.write("cost.json", self.cost())
        if self.settings.trackers:
            self.accelerator.end_training()
        return False

    def step(self, step: int) -> tuple[float, int]:
        """One optimizer step; returns its mean loss and approximately how many examples it had."""
        seed = random.Random(f"{self.optim.seed}/{step}/{self.accelerator.process_index}").getrandbits(40)
        torch.manual_seed(seed)  # for dropout: a resumed run needs no other random state
        for group, rate in zip(self.optimizer.param_groups, self.rates(step), strict=True):
            group["lr"] = rate
        batch = self.source(step)
        total = torch.zeros((), device=self.accelerator.device)
        parts = self.parts_of(batch)
        for number, part in enumerate(parts, 1):
            part = part.to(self.accelerator.device)
            with nullcontext() if number == len(parts) else self.accelerator.no_sync(self.model):
                loss = (self.model(part.features, part.ids, part.mask, part.labels) * part.weights).sum()
                self.accelerator.backward(loss * self.world)  # processes average
            total += loss.detach()
        value = self.accelerator.reduce(total, "sum").item()
        if not math.isfinite(value):
            self.refuse_not_finite(step, value)
        if self.regime.clip is not None:
            self.accelerator.clip_grad_norm_(self.adapter.parameters(), self.regime.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return value, len(batch) * self.world

    def parts_of(self, batch: Batch) -> list[Batch]:
        """Split a batch into LM passes of at most `optim.batch` texts.

        Texts are grouped by length unless the perceptual token sees padding, which would change the result.
        """
        if self.adapted.pads_visible:
            return [*batch.parts(self.optim.accumulate, self.world)]
        cost = PASS_COST.get(self.accelerator.device.type, PASS_COST["cuda"])
        return [*batch.parts_by_length(self.optim.accumulate, self.world, cost)]

    def rates(self, step: int) -> list[float]:
        """Learning rate of every group at a step."""
        return self.regime.rates(self.groups, step, self.source.per_epoch)

    def training(self, mode: bool) -> None:
        """Switch between training and evaluation; the regime decides about the frozen LM's dropout."""
        self.adapter.train(mode)
        self.adapted.lm.base.train(mode and self.regime.frozen_dropout)

    def refuse_not_finite(self, step: int, value: float) -> None:
        """Stop, and write what is needed to investigate."""
        bad = {"step": step, "loss": str(value), "items": self.source.about(step)}
        file = self.folder.write("bad_step.json", bad)
        raise EPALMError(
            f"The loss became {value} at step {step} (items in {file}): lower optim.lr, or set "
            "optim.precision to bf16 or no."
        )

    # ---------------------------------------------------------------- validation and records

    def ends_epoch(self) -> bool:
        """Whether to validate now."""
        epoch, rest = divmod(self.progress.step, self.source.per_epoch)
        return rest == 0 and (epoch % self.settings.evaluation.every == 0 or self.progress.step == self.steps)

    def validate(self) -> None:
        """Validate, and keep the adapter in best/ if it is the best so far."""
        if self.judge is None:
            return
        self.training(False)
        verdict = self.judge()
        self.training(True)
        progress, epoch = self.progress, self.progress.step // self.source.per_epoch
        row = {"kind": "epoch", "step": progress.step, "epoch": epoch, "split": "val"}
        loss = {} if verdict.loss is None else {"loss": verdict.loss}
        self.log(row | {"metrics": verdict.metrics, "seconds": self.seconds()} | loss, verdict.metrics)
        if progress.best is None or verdict.value > progress.best:
            progress.best, progress.best_epoch = verdict.value, epoch
            self.folder.keep_best(self.adapter, verdict.metrics)
        best = "the best" if progress.best_epoch == epoch else f"best so far: epoch {progress.best_epoch}"
        self.say(f"Epoch {epoch} of {self.optim.epochs}: {verdict.summary} ({best})")

    def improves_no_more(self) -> bool:
        """Whether `evaluation.patience` validations have passed without a better one."""
        evaluation, best = self.settings.evaluation, self.progress.best_epoch
        if evaluation.patience is None or best is None:
            return False
        return self.progress.step // self.source.per_epoch - best >= evaluation.patience * evaluation.every

    def row(self, loss: float, pace: float) -> dict[str, Any]:
        """One step of the log."""
        step = self.progress.step
        rates = self.rates(step - 1)
        named = zip(self.groups, rates, strict=True)
        prompt = [rate for group, rate in named if group.names[0].startswith("prompt")]
        return {
            "kind": "step",
            "step": step,
            "epoch": step / self.source.per_epoch,
            "loss": loss,
            "lr": rates[0],
            "prompt_lr": prompt[0] if prompt else None,
            "samples_per_s": pace,
            "memory_mb": peak_memory(self.accelerator.device),
            "seconds": self.seconds(),
        }

    def log(self, row: Mapping[str, Any], tracked: Mapping[str, float]) -> None:
        self.folder.log(row)
        if self.settings.trackers:
            self.accelerator.log(dict(tracked), step=row["step"])

    def save(self) -> None:
        self.progress.seconds = self.seconds()
        if self.main:
            self.checkpoint.write(self.adapter, self.optimizer, self.accelerator.scaler, self.progress)

    def cost(self) -> dict[str, Any]:
        frozen = [self.adapted.lm, *([self.encoder] if self.encoder is not None else [])]
        return {
            "seconds": self.seconds(),
            "samples": round(self.source.count * self.progress.step / self.source.per_epoch),
            "device": device_name(self.accelerator.device),
            "peak_memory_mb": peak_memory(self.accelerator.device),
            "trained_parameters": sum(p.numel() for p in self.adapter.parameters() if p.requires_grad),
            "frozen_parameters": sum(p.numel() for module in frozen for p in module.parameters()),
            "processes": self.world,
        }

    def seconds(self) -> float:
        """Seconds of training, without the time between interrupted runs."""
        return time.monotonic() - self.begun

    def any_rank(self, stop: bool) -> bool:
        """Whether any process was told to stop, so that all stop at the same step."""
        if self.world == 1:
            return stop
        flag = torch.tensor(float(stop), device=self.accelerator.device)
        return bool(self.accelerator.reduce(flag, "sum").item())

    def say(self, message: str) -> None:
        if self.main:
            tqdm.write(message, file=sys.stderr)
