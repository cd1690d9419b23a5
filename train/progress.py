"""Progress bars for slow work: one line on a terminal, otherwise a line every half minute."""

from __future__ import annotations

import os
import sys
from typing import Any

from tqdm import tqdm

EVERY = 30.0  # seconds between lines when not on a terminal


def bar(what: str, total: int | None = None, unit: str = "", done: int = 0) -> Any:
    """A progress bar that appears after a second; use it in a `with` block and call `update(n)`.

    Args:
        what: the work, such as "reading train.jsonl".
        total: None if unknown.
        unit: "B" counts bytes with SI prefixes.
        done: how much of the total is already done.
    """
    return tqdm(
        desc=what,
        total=total,
        initial=done,
        unit=unit,
        unit_scale=unit == "B",
        delay=1.0,
        mininterval=0.2 if sys.stderr.isatty() else EVERY,
        leave=False,
        disable=os.environ.get("RANK", "0") != "0",  # only one process of a group shows it
    )
