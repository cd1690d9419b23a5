"""How far something slow is: one line on a terminal, and a line now and then where nobody watches."""

from __future__ import annotations

import os
import sys
from typing import Any

from tqdm import tqdm

EVERY = 30.0  # seconds between lines where nobody watches


def bar(what: str, total: int | None = None, unit: str = "", done: int = 0) -> Any:
    """A progress bar that appears after a second; for a `with`, and `update(n)`.

    Args:
        what: is done, such as "reading train.jsonl".
        total: None if nobody knows it.
        unit: "B" counts bytes in kilo and mega.
        done: of the total already.
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
        disable=os.environ.get("RANK", "0") != "0",  # one process of a group is enough
    )
