"""Devices and processes, signals, and memory of the machine that a training runs on."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from epalm.cpu import pack_for_training
from epalm.errors import EPALMError
from train.settings import Settings


def new_accelerator(settings: Settings) -> Accelerator:
    """The devices and processes to train on.

    Raises:
        EPALMError: the device does not support the precision, or a tracker's package is missing.
    """
    if settings.optim.precision == "fp16" and not torch.cuda.is_available():
        raise EPALMError("optim.precision fp16 needs a GPU: use bf16 or no on this machine.")
    packages = {"tensorboard": "tensorboard", "wandb": "wandb"}
    for name in settings.trackers:
        try:
            __import__(packages[name])
        except ImportError:
            raise EPALMError(f"The tracker {name} needs its package: pip install {packages[name]}.") from None
    return Accelerator(
        mixed_precision=settings.optim.precision,
        log_with=list(settings.trackers) or None,
        project_dir=settings.out,
    )


@contextmanager
def stopping() -> Iterator[dict[str, bool]]:
    """Ctrl-C and SIGTERM set ["now"], so that the current step is finished and saved; a second one exits."""
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
    """Peak memory use so far in MB, of the GPU if there is one, otherwise of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"


def pack_where_there_is_room(lm: nn.Module) -> None:
    """Pack a frozen LM's weights for a CPU, if they and their two copies fit into half of the machine's
    memory.

    Total rather than free memory decides, so that a resumed training computes exactly the same.
    """
    size = sum(p.numel() * p.element_size() for p in lm.parameters() if p.device.type == "cpu")
    if size and 3 * size <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2:
        pack_for_training(lm)


def memory_full(setting: str, value: int, more: str = "") -> EPALMError:
    """The error to raise when the device is out of memory."""
    return EPALMError(f"The device ran out of memory with {setting}={value}: halve it{more}.")
