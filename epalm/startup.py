"""What is to be decided before PyTorch is imported: how its threads wait, and that importing is quick."""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager

WAITING = {
    # A thread that spins until there is work slows everything down where something else is running. One that
    # sleeps at once is woken for each of a token's hundreds of small products. So: spin shortly, then
    # sleep (benchmarks/README.md has the numbers).
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "1000",
}


def settle_waiting() -> None:
    """Let threads spin shortly and then sleep, unless the environment says something else."""
    if not WAITING.keys() & os.environ.keys():
        os.environ.update(WAITING)


@contextmanager
def importing() -> Iterator[None]:
    """Import large libraries without looking for garbage: there is none, and it takes a fifth of the time.

    What was imported is never looked at again either, which shortens later collections.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
