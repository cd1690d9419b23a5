"""The checkpoint of a training: one file, written atomically, with the identity of its training."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from epalm.adapter import Adapter
from epalm.errors import EPALMError, reason
from epalm.files import atomic
from train.data.manifest import Item
from train.settings import Settings

CHECKPOINT = "checkpoint.pt"


@dataclass
class Progress:
    """How far a training has come: everything in a checkpoint besides the weights."""

    step: int = 0
    best: float | None = None
    best_epoch: int | None = None
    seconds: float = 0.0


class Checkpoint:
    """checkpoint.pt in a run folder.

    Attributes:
        state: the content of the file, or None for a new training.
    """

    def __init__(self, folder: Path, identity: dict[str, Any], state: dict[str, Any] | None = None):
        self.path, self.identity, self.state = folder / CHECKPOINT, identity, state

    @classmethod
    def open(cls, folder: Path, identity: dict[str, Any], resume: bool) -> Checkpoint:
        """Read the checkpoint in a folder, if there is one.

        Args:
            identity: everything that the training's steps depend on, by name; see `identity_of`.
        Raises:
            EPALMError: there is a checkpoint but `resume` is false, it has another identity, or it is
                damaged or not a training's.
        """
        path = folder / CHECKPOINT
        if not path.exists():
            return cls(folder, identity)
        state = read(path)
        if not resume:
            raise EPALMError(
                f"{folder} has a training at step {state['progress']['step']}: continue it with --resume, or "
                "choose another folder with --set out=FOLDER."
            )
        old = state["settings"]
        if other := [key for key in sorted(old | identity) if old.get(key) != identity.get(key)]:
            key = other[0]
            raise EPALMError(
                f"The training in {folder} has {key} = {old.get(key)}, but now it is {identity.get(key)}: "
                "use the same settings, or another folder with --set out=FOLDER."
            )
        return cls(folder, identity, state)

    def restore(self, adapter: Adapter, optimizer: Any, scaler: Any) -> Progress:
        """Restore the state that was read, if any."""
        if self.state is None:
            return Progress()
        adapter.load_state_dict(self.state["adapter"])
        optimizer.load_state_dict(self.state["optimizer"])
        if scaler is not None and self.state["scaler"] is not None:
            scaler.load_state_dict(self.state["scaler"])
        return Progress(**self.state["progress"])

    def write(self, adapter: Adapter, optimizer: Any, scaler: Any, progress: Progress) -> None:
        """Replace the checkpoint, then the adapter folder last/.

        Raises:
            EPALMError: the disk is full or read-only.
        """
        state = {
            "adapter": adapter.state_dict(),
            "optimizer": optimizer.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
            "progress": dataclasses.asdict(progress),
            "settings": self.identity,
        }
        try:
            with atomic(self.path) as file:
                torch.save(state, file)
            adapter.save(self.path.parent / "last")
        except (OSError, RuntimeError, EPALMError) as error:  # torch reports a full disk as RuntimeError
            raise EPALMError(
                f"The checkpoint in {self.path.parent} cannot be written ({reason(error)}): make room and "
                "continue with --resume."
            ) from error


def read(path: Path) -> dict[str, Any]:
    """The content of a checkpoint.

    Raises:
        EPALMError: it is damaged, or a file of another kind.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises different errors depending on where the file is damaged
        raise EPALMError(f"{path} is damaged ({reason(error)}): remove it to start again.") from error
    match state:
        case {
            "adapter": dict(),
            "optimizer": dict(),
            "scaler": _,
            "progress": {"step": int(), "best": _, "best_epoch": _, "seconds": float() | int()} as progress,
            "settings": dict(),
        } if len(progress) == len(dataclasses.fields(Progress)):
            return state
    raise EPALMError(
        f"{path} is not the checkpoint of a training: move it elsewhere, or choose another folder with "
        "--set out=FOLDER."
    )


def identity_of(settings: Settings, **more: Any) -> dict[str, Any]:
    """Everything that a training's steps depend on: a resumed training must match its checkpoint in it."""
    return flat(comparable(settings)) | more


def items_identity(items: Sequence[Item], per_step: int) -> dict[str, Any]:
    """The part of a training's identity that depends on its items."""
    digest = hashlib.sha256(repr(items).encode(errors="surrogateescape")).hexdigest()
    return {
        "items per step (batch x accumulate x processes)": per_step,
        "the training items": f"{len(items)} ({digest[:8]})",
    }


def comparable(settings: Settings) -> dict[str, Any]:
    """The settings that affect a training's result, as plain values."""
    values = json.loads(json.dumps(dataclasses.asdict(settings)))
    for key in ("out", "trackers", "paper"):
        del values[key]
    for key in ("test", "workers"):
        del values["data"][key]
    for key in ("save_every", "batch", "accumulate"):  # only the items per step matter
        del values["optim"][key]
    del values["evaluation"]["batch"]
    return values


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}; lists become text, as trackers require."""
    out: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            out |= flat(value, f"{prefix}{key}.")
        else:
            out[prefix + key] = value if isinstance(value, int | float | str | bool) else str(value)
    return out
