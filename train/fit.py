"""Train an adapter on a benchmark: `python -m train fit CONFIG`, also under `accelerate launch -m`.

What a step trains on depends on the seed and the step's number alone, and the checkpoint is one file that
appears whole or not at all. So a training that is stopped or killed at any moment, and started again with
--resume, takes the same steps as one that was never stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import math
import os
import random
import resource
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from torch import Tensor, nn
from tqdm import tqdm

from epalm.adapter import Adapter
from epalm.decoding import InjectedLM, text_loss
from epalm.errors import EPALMError, reason
from epalm.text import TaskText
from train.data.benchmarks import find_dataset
from train.data.manifest import Item, write_atomic
from train.evaluate import evaluate_split
from train.features.cache import cached_widths
from train.frozen import (
    alone,
    feature_source,
    lm_config,
    load_frozen_encoder,
    load_frozen_lm,
    memory_full,
    new_adapter,
    say,
    split_items,
)
from train.loop import text_batch
from train.optimizer import learning_rates, make_optimizer, parameter_groups
from train.settings import Settings, load_settings, save_settings

REFERENCE_WEIGHT = 0.1  # of the original's loss
CHECKPOINT = "checkpoint.pt"
STOPPED = 130  # exit code after Ctrl-C or SIGTERM


class Trainable(nn.Module):
    """The adapter with the LM's forward pass; the frozen LM is no part of the module, so only the adapter is
    synchronised and saved."""

    def __init__(self, lm: InjectedLM, adapter: Adapter, reference: bool):
        super().__init__()
        self.adapter = adapter
        self.reference = reference
        self.frozen = (lm,)

    def forward(self, features: list[Tensor], ids: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
        """Loss of every sample, (B,): the mean over its answer's tokens; in reference mode the weighted sum
        over all tokens of its text."""
        [lm] = self.frozen
        adapter = self.adapter
        keep = 0 if self.reference else int((labels != -100).any(0).sum()) + 1
        # The LM has its precision and the adapter has float32: nothing is left to choose for autocast.
        with torch.autocast(ids.device.type, enabled=False):
            prompt = None if adapter.prompt is None else adapter.prompt().expand(len(ids), -1, -1)
            tokens = adapter.tokens(features)
            logits = lm(ids, mask, prompt, tokens, adapter.config.injection, logits_to_keep=keep).logits
        labels = labels[:, -keep:]
        loss = text_loss(logits, labels)
        if self.reference:
            return REFERENCE_WEIGHT * loss.sum(1)
        return loss.sum(1) / (labels[:, 1:] != -100).sum(1).clamp(min=1)


@dataclasses.dataclass
class Progress:
    """How far a training has come; everything but weights that a checkpoint holds."""

    step: int = 0
    best: float | None = None
    best_epoch: int | None = None
    seconds: float = 0.0


class Training:
    """One run of `fit`."""

    def __init__(self, settings: Settings, resume: bool):
        self.settings, self.optim = settings, settings.optim
        if self.optim.precision == "fp16" and not torch.cuda.is_available():
            raise EPALMError(
                "optim.precision fp16 needs a GPU, which scales its losses: use bf16 or no on this machine."
            )
        self.accelerator = Accelerator(
            mixed_precision=self.optim.precision,
            log_with=check_trackers(settings.trackers),
            project_dir=settings.out,
        )
        self.device = str(self.accelerator.device)
        self.out = Path(settings.out)
        self.main = self.accelerator.is_main_process
        self.items = limited(split_items(settings, "train"), settings.limit, self.optim.seed)
        self.val = split_items(settings, "val")[: settings.evaluation.limit]
        for name, items in (("train", self.items), ("val", self.val)):
            if without := [item.id for item in items if not item.answers]:
                raise EPALMError(
                    f"{len(without)} of {len(items)} items of data.{name} have no answers, for example "
                    f"{without[0]!r}: a training needs them."
                )
        self.world = self.accelerator.num_processes
        self.per_step = self.optim.batch * self.world * self.optim.accumulate  # items per optimizer step
        self.checkpoint = read_checkpoint(self.out, self.compared(), resume)

        lm_sizes = lm_config(settings)
        self.lm, tokenizer = load_frozen_lm(settings, lm_sizes, self.device)
        encoder = load_frozen_encoder(settings, self.device) if settings.data.cache is None else None
        widths = cached_widths(Path(settings.data.cache)) if settings.data.cache else encoder.widths
        config = settings.adapter_config(lm_sizes, widths)
        self.text = TaskText(settings.task, tokenizer)
        self.adapter = new_adapter(settings, config, self.lm, tokenizer).to(self.accelerator.device)
        splits = {"val": self.val, "train": self.items}
        self.features = feature_source(settings, config, splits, encoder)
        self.groups = parameter_groups(self.adapter, self.optim, settings.task.name, settings.reference)
        self.optimizer = make_optimizer(self.adapter, self.groups)
        self.model, self.optimizer = self.accelerator.prepare(
            Trainable(self.lm, self.adapter, settings.reference), self.optimizer
        )
        self.per_epoch = math.ceil(len(self.items) / self.per_step)
        self.steps = self.per_epoch * self.optim.epochs
        self.progress = Progress()
        self.restore()

    # ---------------------------------------------------------------- checkpoints

    def compared(self) -> dict[str, Any]:
        """What a resumed training must share with its checkpoint: all that its steps depend on."""
        values = flat(comparable(self.settings))
        values["items per step (batch x accumulate x processes)"] = self.per_step
        digest = hashlib.sha256(repr(self.items).encode(errors="surrogateescape")).hexdigest()
        values["the training items"] = f"{len(self.items)} ({digest[:8]})"
        return values

    def restore(self) -> None:
        """Go on from the checkpoint, and drop what was logged behind it."""
        state = self.checkpoint
        if state is None:
            if self.main:
                save_settings(self.settings, self.out / "config.yaml")
                (self.out / "log.jsonl").unlink(missing_ok=True)
            return
        self.adapter.load_state_dict(state["adapter"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.accelerator.scaler is not None and state["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.progress = Progress(**state["progress"])
        if self.main:
            log = self.out / "log.jsonl"
            rows = read_log(log)
            kept = [row for row in rows if row["step"] <= self.progress.step]
            write_atomic(log, (json.dumps(row) + "\n" for row in kept))
            self.adapter.save(self.out / "last")  # a kill may have come between it and the checkpoint
            say(f"Going on at step {self.progress.step} of {self.steps}.")

    def save(self, seconds: float) -> None:
        """Write the checkpoint and last/, on the main process."""
        if not self.main:
            return
        self.progress.seconds = seconds
        scaler = self.accelerator.scaler
        state = {
            "adapter": self.adapter.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
            "progress": dataclasses.asdict(self.progress),
            "settings": self.compared(),
        }
        part = self.out / f"{CHECKPOINT}.part"
        try:
            with part.open("wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, self.out / CHECKPOINT)
            self.adapter.save(self.out / "last")
        except (OSError, RuntimeError, SafetensorError) as error:  # torch reports a full disk as RuntimeError
            raise EPALMError(
                f"The checkpoint in {self.out} cannot be written ({reason(error)}): make room and go on with "
                "--resume."
            ) from error

    # ---------------------------------------------------------------- steps

    def run(self) -> int:
        """Train to the end; returns the exit code."""
        if self.settings.trackers:
            config, places = flat(comparable(self.settings)), {"wandb": {"dir": self.settings.out}}
            self.accelerator.init_trackers("epalm", config, places)
        begun = time.monotonic() - self.progress.seconds
        first, first_time = self.progress.step, time.monotonic()
        bar = tqdm(total=self.steps, initial=first, disable=not self.main, unit="step", dynamic_ncols=True)
        self.drop_out(self.settings.reference)
        with stopping() as stop, bar:
            for step in range(first, self.steps):
                loss = self.step(step)
                self.progress.step = step + 1
                now = time.monotonic()
                row = self.row(loss, (step + 1 - first) * self.per_step / (now - first_time), now - begun)
                bar.update()
                shown = {"loss": f"{loss:.3f}", "lr": f"{row['lr']:.1e}", "MB": round(row["memory_mb"])}
                bar.set_postfix(shown | {"items/s": f"{row['samples_per_s']:.1f}"})
                self.log(row)
                if self.validates(step + 1):
                    self.drop_out(False)
                    self.validate((step + 1) // self.per_epoch, time.monotonic() - begun)
                    self.drop_out(self.settings.reference)
                    self.save(time.monotonic() - begun)
                elif (step + 1) % self.optim.save_every == 0:
                    self.save(time.monotonic() - begun)
                if self.anywhere(stop):
                    self.save(time.monotonic() - begun)
                    if self.main:
                        say(f"Stopped at step {step + 1} of {self.steps}; go on with --resume.")
                    return STOPPED
        self.drop_out(False)
        if self.main and first < self.steps:
            self.write_cost(time.monotonic() - begun)
        if self.settings.trackers:
            self.accelerator.end_training()
        return 0

    def drop_out(self, mode: bool) -> None:
        """Whether the frozen parts drop out; the original's do in training."""
        self.lm.lm.train(mode)
        self.features.train(mode)

    def validates(self, done: int) -> bool:
        """Whether the validation split is looked at after so many steps."""
        epoch, rest = divmod(done, self.per_epoch)
        return rest == 0 and (epoch % self.settings.evaluation.every == 0 or done == self.steps)

    def step(self, step: int) -> float:
        """One optimizer step; returns its loss, the mean over all its items on all processes."""
        items = self.items_of(step)
        seed = random.Random(f"{self.optim.seed}/{step}/{self.accelerator.process_index}").getrandbits(40)
        torch.manual_seed(seed)  # of dropout: a resumed run needs no other state
        for group, rate in zip(self.optimizer.param_groups, self.rates(step), strict=True):
            group["lr"] = rate
        total = torch.zeros((), device=self.accelerator.device)
        for part in range(self.optim.accumulate):
            start = (part * self.world + self.accelerator.process_index) * self.optim.batch
            own = items[start : start + self.optim.batch]
            last = part == self.optim.accumulate - 1
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                # A process without items still takes part in the synchronisation, with weight 0.
                losses = self.losses(own or items[:1], step)
                loss = losses.sum() * (len(own) > 0) / len(items)
                self.accelerator.backward(loss * self.world)  # processes average
            total += loss.detach()
        value = self.accelerator.reduce(total, "sum").item()
        if not math.isfinite(value):
            self.refuse_not_finite(step, items, value)
        if self.optim.clip is not None and not self.settings.reference:
            self.accelerator.clip_grad_norm_(self.adapter.parameters(), self.optim.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return value

    def rates(self, step: int) -> list[float]:
        """The learning rate of every group at a step."""
        return learning_rates(self.groups, self.optim, self.settings.reference, step, self.per_epoch)

    def losses(self, items: Sequence[Item], step: int) -> Tensor:
        """Loss of each item."""
        texts, draws = [], []
        for item in items:
            rng = random.Random(f"{self.optim.seed}/{step}/{item.id}")
            draws.append(rng.randint(1, self.settings.data.draws) if self.settings.data.draws else 0)
            answer = choose_answer(item, rng, self.settings.reference)
            before, after = self.text.training_text(item.prompt, answer)
            texts.append((before, after))
        device = self.accelerator.device
        features = [f.to(device) for f in self.features(items, draws)]
        make = reference_batch if self.settings.reference else answer_batch
        ids, mask, labels = (t.to(device) for t in make(texts, self.text))
        return self.model(features, ids, mask, labels)

    def items_of(self, step: int) -> list[Item]:
        """The items of an optimizer step, on all processes: a part of the epoch's own order."""
        epoch, place = divmod(step, self.per_epoch)
        generator = torch.Generator().manual_seed(self.optim.seed * 1_000_003 + epoch)
        order = torch.randperm(len(self.items), generator=generator)
        return [self.items[i] for i in order[place * self.per_step : (place + 1) * self.per_step].tolist()]

    def anywhere(self, stop: dict[str, bool]) -> bool:
        """Whether any process was told to stop, so that all do at the same step."""
        if self.world == 1:
            return stop["now"]
        flag = torch.tensor(float(stop["now"]), device=self.accelerator.device)
        return bool(self.accelerator.reduce(flag, "sum").item())

    def refuse_not_finite(self, step: int, items: Sequence[Item], value: float) -> None:
        """Stop with what is needed to look into it."""
        file = self.out / "bad_step.json"
        if self.main:
            row = {"step": step, "loss": str(value), "items": [dataclasses.asdict(item) for item in items]}
            write_atomic(file, [json.dumps(row, indent=1)])
        raise EPALMError(
            f"The loss became {value} at step {step}; its items are in {file}: lower optim.lr, or train with "
            "optim.precision bf16 or no."
        )

    # ---------------------------------------------------------------- validation and records

    def validate(self, epoch: int, seconds: float) -> None:
        """Metrics of the validation split; keeps the adapter in best/ if none was better."""
        parts = (self.accelerator, self.lm, self.text, self.adapter, self.features)
        try:
            scores = evaluate_split(*parts, self.val, self.settings, java=False)
        except torch.OutOfMemoryError as error:
            more = "; --resume goes on at the last checkpoint"
            raise memory_full("evaluation.batch", self.settings.evaluation.batch, more) from error
        if not self.main:
            return
        name = find_dataset(self.settings.data.dataset).metrics[0]
        value = scores.metrics[name]
        self.log({"kind": "epoch", "step": self.progress.step, "epoch": epoch, "split": "val",
                  "metrics": scores.metrics, "seconds": seconds})  # fmt: skip
        if self.progress.best is None or value > self.progress.best:
            self.progress.best, self.progress.best_epoch = value, epoch
            config, rounded = self.adapter.config, {key: round(v, 4) for key, v in scores.metrics.items()}
            self.adapter.config = dataclasses.replace(config, metrics=rounded)
            self.adapter.save(self.out / "best")
            self.adapter.config = config
        best = f"best {100 * self.progress.best:.2f} after epoch {self.progress.best_epoch}"
        say(f"Epoch {epoch} of {self.optim.epochs}: {name} {100 * value:.2f} ({best})")

    def row(self, loss: float, pace: float, seconds: float) -> dict[str, Any]:
        """One step of the log."""
        step = self.progress.step
        rates = self.rates(step - 1)
        named = zip(self.groups, rates, strict=True)
        prompt = [rate for group, rate in named if group.names[0].startswith("prompt")]
        return {
            "kind": "step",
            "step": step,
            "epoch": step / self.per_epoch,
            "loss": loss,
            "lr": rates[0],
            "prompt_lr": prompt[0] if prompt else None,
            "samples_per_s": pace,
            "memory_mb": peak_memory(self.accelerator.device),
            "seconds": seconds,
        }

    def log(self, row: dict[str, Any]) -> None:
        if self.main:
            with (self.out / "log.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        if self.settings.trackers:
            values = row["metrics"] if row["kind"] == "epoch" else {k: row[k] for k in ("loss", "lr")}
            self.accelerator.log(values, step=row["step"])

    def write_cost(self, seconds: float) -> None:
        frozen = [self.lm, *([self.features.encoder] if self.features.encoder else [])]
        cost = {
            "seconds": seconds,
            "samples": len(self.items) * self.optim.epochs,
            "device": device_name(self.accelerator.device),
            "peak_memory_mb": peak_memory(self.accelerator.device),
            "trained_parameters": sum(p.numel() for p in self.adapter.parameters() if p.requires_grad),
            "frozen_parameters": sum(p.numel() for module in frozen for p in module.parameters()),
            "processes": self.world,
        }
        write_atomic(self.out / "cost.json", [json.dumps(cost, indent=1) + "\n"])


# ---------------------------------------------------------------- texts


def answer_batch(texts: Sequence[tuple[str, str]], text: TaskText) -> tuple[Tensor, Tensor, Tensor]:
    """(before, answer) -> ids, mask, labels (B, T), padded on the left; the loss is on the answer alone."""
    ids = [(text.ids(before), added(text, before, after)) for before, after in texts]
    return text_batch(ids, text.tokenizer.pad_token_id)


def added(text: TaskText, before: str, after: str) -> list[int]:
    """Ids of the answer, without the start token that a tokenizer puts in front of every text."""
    ids = text.ids(after)
    start = text.ids("")
    return ids[len(start) :] if start and ids[: len(start)] == start else ids


def reference_batch(texts: Sequence[tuple[str, str]], text: TaskText) -> tuple[Tensor, Tensor, Tensor]:
    """As the original: one text, padded on the right, and every token of it is a label."""
    ids = [text.ids(before + after) for before, after in texts]
    width, pad = max(map(len, ids)), text.tokenizer.pad_token_id
    rows = torch.tensor([row + [pad] * (width - len(row)) for row in ids])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in ids])
    return rows, mask, rows.masked_fill(mask == 0, -100)


def choose_answer(item: Item, rng: random.Random, reference: bool) -> str:
    """The answer to train on: one of the humans', or as often as the original's soft scores say.

    The original scores an answer that 1, 2, 3, or more of ten people gave with 0.3, 0.6, 0.9 or 1.
    """
    if not item.answers:
        return ""
    if not reference:
        return rng.choice(item.answers)
    counts = Counter(item.answers)
    return rng.choices(list(counts), [min(1.0, 0.3 * count) for count in counts.values()])[0]


# ---------------------------------------------------------------- state on the disk


def read_checkpoint(out: Path, compared: dict[str, Any], resume: bool) -> dict[str, Any] | None:
    """The checkpoint to go on from, or None to start.

    Raises:
        EPALMError: there is a training that --resume was not given for, one with other settings or items, or
            a checkpoint that is damaged.
    """
    path = out / CHECKPOINT
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what torch raises depends on where a file is damaged
        raise EPALMError(f"{path} is damaged ({reason(error)}): remove it to start again.") from error
    if not resume:
        raise EPALMError(
            f"{out} has a training at step {state['progress']['step']}: go on with --resume, or choose "
            "another folder with --set out=FOLDER."
        )
    old = state["settings"]
    if other := [key for key in sorted(old | compared) if old.get(key) != compared.get(key)]:
        key = other[0]
        raise EPALMError(
            f"The training in {out} has {key} = {old.get(key)}, but now it is {compared.get(key)}: use the "
            "same settings, or another folder with --set out=FOLDER."
        )
    return state


def comparable(settings: Settings) -> dict[str, Any]:
    """The settings that a training's result depends on, as plain values."""
    values = json.loads(json.dumps(dataclasses.asdict(settings)))
    for key in ("out", "trackers", "paper"):
        del values[key]
    for key in ("test", "workers"):
        del values["data"][key]
    for key in ("save_every", "batch", "accumulate"):  # only the items per step count
        del values["optim"][key]
    del values["evaluation"]["batch"]
    return values


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}, with lists as text, which trackers need."""
    out: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            out |= flat(value, f"{prefix}{key}.")
        else:
            out[prefix + key] = value if isinstance(value, int | float | str | bool) else str(value)
    return out


def read_log(path: Path) -> list[dict[str, Any]]:
    """The rows of a log; a last one that a kill tore is left out."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n"):
            rows.append(json.loads(line))
    return rows


def limited(items: list[Item], fraction: float, seed: int) -> list[Item]:
    """A fixed random part of the items, in their order; smaller parts are contained in larger ones."""
    if fraction == 1:
        return items
    order = torch.randperm(len(items), generator=torch.Generator().manual_seed(seed)).tolist()
    return [items[i] for i in sorted(order[: max(1, round(fraction * len(items)))])]


# ---------------------------------------------------------------- surroundings


def check_trackers(names: Sequence[str]) -> list[str] | None:
    """Refuse trackers whose packages are missing."""
    packages = {"tensorboard": "tensorboard", "wandb": "wandb"}
    for name in names:
        try:
            __import__(packages[name])
        except ImportError:
            raise EPALMError(f"The tracker {name} needs its package: pip install {packages[name]}.") from None
    return list(names) or None


@contextmanager
def stopping() -> Iterator[dict[str, bool]]:
    """Ctrl-C and SIGTERM set ["now"], so that a step ends and is saved; a second one ends at once."""
    stop = {"now": False}

    def ask(number: int, frame: Any) -> None:
        if stop["now"]:
            raise KeyboardInterrupt
        stop["now"] = True

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def peak_memory(device: torch.device) -> float:
    """Highest memory use so far in MB: of the GPU, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def device_name(device: torch.device) -> str:
    return (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"CPU, {torch.get_num_threads()} threads"
    )


# ---------------------------------------------------------------- the command


def fit(settings: Settings, resume: bool = False) -> int:
    """Train; returns 0, or 130 if it was told to stop.

    Raises:
        EPALMError: settings, data or parts do not fit, the loss is no number any more, or the memory is full.
    """
    try:
        return Training(settings, resume).run()
    except torch.OutOfMemoryError as error:
        optim = settings.optim
        more = f" and double optim.accumulate (now {optim.accumulate}), which gives the same steps"
        raise memory_full("optim.batch", optim.batch, more) from error


def run_fit(arguments: argparse.Namespace) -> int:
    overrides = list(arguments.set)
    if arguments.limit is not None:
        overrides.append(f"limit={arguments.limit}")
    settings = load_settings(arguments.config, overrides)
    with alone(Path(settings.out)):
        return fit(settings, arguments.resume)
