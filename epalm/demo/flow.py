"""How many requests are on their way; at the end nobody comes in any more, and all who are in are served."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from epalm.demo.problems import Refusal


class Flow:
    """Counts requests from beginning to end.

    Args:
        most: how many may be on their way; further ones are refused.
    """

    def __init__(self, most: int):
        self.most = most
        self.running = 0
        self.closed = False
        self.changed = threading.Condition()

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Be one of them.

        Raises:
            Refusal: there are too many, or the server is closing.
        """
        with self.changed:
            if self.closed:
                raise Refusal("closing", "The server is closing; please try again in a minute.")
            if self.running >= self.most:
                raise Refusal(
                    "busy", f"{self.running} requests are waiting already; please try again in a minute."
                )
            self.running += 1
        try:
            yield
        finally:
            with self.changed:
                self.running -= 1
                self.changed.notify_all()

    def close(self, timeout: float) -> bool:
        """Let nobody in any more and wait until all have been served; False if they were not in time."""
        with self.changed:
            self.closed = True
            return self.changed.wait_for(lambda: not self.running, timeout)
