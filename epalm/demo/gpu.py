"""ZeroGPU lends a GPU for the time of a call; elsewhere the decorator does nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

SECONDS = {"caption": 20, "qa": 20, "explain": 60}  # that a call of each task may take on a GPU

try:
    from spaces import GPU
except ImportError:
    GPU = None


def on_gpu(task: str) -> Callable[[F], F]:
    """Run a function on the lent GPU, for as long as its task may take."""
    if GPU is None:
        return lambda function: function
    return GPU(duration=SECONDS[task])
