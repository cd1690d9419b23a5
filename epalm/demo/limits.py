"""What a request may be: sizes of files, questions and settings, and how often one client may ask."""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from epalm.demo.problems import Refusal
from epalm.media.container import Modality
from epalm.media.reader import Reader

MOST_BEAMS, MOST_TOKENS = 8, 100
MASKS = ("causal", "reference")


@dataclass(frozen=True)
class Limits:
    """The largest of each; what is over is refused with a sentence that says the limit."""

    megabytes: int = 250  # of a file: about a minute of a phone's video
    megapixels: int = 89  # of a picture, or of one frame of a video; Pillow warns from here on
    seconds: int = 600  # of a video or a sound
    question: int = 1000  # characters
    answer_seconds: int = 120  # that one answer may take to compute

    def check_settings(self, beams: float, max_new_tokens: float, mask: object = None) -> None:
        """Refusal unless both are whole numbers in their ranges; no tokens means the model's own limit.

        Args:
            mask: a mask mode, or None for that of the model.
        """
        whole = all(
            isinstance(n, int) or (isinstance(n, float) and n.is_integer()) for n in (beams, max_new_tokens)
        )
        if not (whole and 1 <= beams <= MOST_BEAMS and 0 <= max_new_tokens <= MOST_TOKENS):
            raise Refusal(
                "bad-setting",
                f"Beams go from 1 to {MOST_BEAMS}, the longest text from 0 to {MOST_TOKENS} tokens.",
            )
        if mask is not None and mask not in MASKS:
            raise Refusal("bad-setting", f"There are these mask modes: {', '.join(MASKS)}.")

    def check_question(self, question: str | None) -> None:
        """Refusal of what cannot be asked; None asks for a caption."""
        if question is None:
            return
        if not isinstance(question, str) or not question.strip():
            raise Refusal(
                "bad-question", "The question is empty; type what you want to know, such as 'what is this?'."
            )
        if not sendable(question):
            raise Refusal("bad-question", "The question has half of a character in it; please type it anew.")
        length = len(" ".join(question.split()))
        if length > self.question:
            raise Refusal(
                "bad-question",
                f"The question has {length} characters; please ask in at most {self.question}.",
            )

    def check_file(self, path: Path, modality: Modality, reader: Reader) -> None:
        """Refusal of a file that is too large, by its header; one without is left to the reader."""
        try:
            size = path.stat().st_size
        except OSError:  # it was deleted just now: the reader says so
            size = 0
        if size > self.megabytes * 1_000_000:
            raise Refusal(
                "file-too-large",
                f"{path.name} has {size / 1e6:,.0f} MB, but at most {self.megabytes} are taken: shrink it.",
            )
        pixels, seconds = reader.size_of(path, modality)
        if pixels > self.megapixels * 1_000_000:
            raise Refusal(
                "file-too-large",
                f"{path.name} has more than {self.megapixels} million pixels: make it smaller.",
            )
        if seconds > self.seconds:
            raise Refusal(
                "file-too-large",
                f"{path.name} is {seconds:,.0f} seconds long, but at most {self.seconds} are taken: cut it.",
            )


def sendable(text: str) -> bool:
    """Whether a text is whole: JSON can bring half of a character, such as one of an emoji's two codes."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


class RateLimit:
    """A bucket of requests for each client: it holds one minute's worth, and fills at that rate.

    Args:
        per_minute: requests that a client may make in a minute; 0 sets no limit.
    """

    def __init__(self, per_minute: int):
        self.per_minute = per_minute
        self.buckets: dict[str, tuple[float, float]] = {}  # client -> requests left, when that was
        self.lock = threading.Lock()

    def take(self, client: str) -> int:
        """Whole seconds to wait until this client may make a request; 0 takes one."""
        if not self.per_minute:
            return 0
        rate, now = self.per_minute / 60, time.monotonic()
        with self.lock:
            if len(self.buckets) > 10_000:  # those that are full again need not be remembered
                full = [
                    c for c, (left, at) in self.buckets.items() if left + (now - at) * rate >= self.per_minute
                ]
                for name in full:
                    del self.buckets[name]
            left, at = self.buckets.get(client, (float(self.per_minute), now))
            left = min(self.per_minute, left + (now - at) * rate)
            if left < 1:
                self.buckets[client] = left, now
                return math.ceil((1 - left) / rate)
            self.buckets[client] = left - 1, now
            return 0

    def check(self, client: str) -> None:
        """Refusal of a client that asks too often."""
        if wait := self.take(client):
            raise Refusal(
                "too-many-requests",
                f"You may ask {self.per_minute} times a minute here; please wait {wait} seconds.",
            )
