"""The report's rows: what is right of held-out media, beside what others get right, with intervals."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from train.metrics.intervals import intervals

HEAD = (
    "| held out | of | right | another file's features | encoder's head, or a probe | nearest in training |",
    "|---|---|---|---|---|---|",
)
SHOWN = 8  # failures of a row


@dataclass(frozen=True)
class Said:
    """What an adapter said of one file, and what would have been right."""

    file: str
    wanted: str
    text: str


@dataclass
class Row:
    """Scores of the same items, in [0, 1] (CIDEr: in [0, 10]).

    Attributes:
        right: of the adapter.
        blind: of the adapter with another file's features.
        known: of the encoder's own head, a probe or another guess without the adapter; `known_by` names it.
        near: of the nearest training item's label or caption.
        said: of the items, in their order; empty where failures tell nothing.
    """

    name: str
    right: Sequence[float]
    blind: Sequence[float] = ()
    known: Sequence[float] = ()
    near: Sequence[float] = ()
    known_by: str = ""
    unit: str = " %"
    said: Sequence[Said] = field(default_factory=list)

    def line(self) -> str:
        known = self.cell(self.known) + (f" {self.known_by}" if self.known and self.known_by else "")
        cells = (str(len(self.right)), self.cell(self.right), self.cell(self.blind), known)
        return f"| {' | '.join((self.name, *cells, self.cell(self.near)))} |"

    def cell(self, scores: Sequence[float]) -> str:
        """ "56.5 % (50–64)": mean × 100 and its bootstrap interval over the items."""
        if not scores:
            return ""
        low, high = intervals({"score": list(scores)})["score"]
        mean = 100 * sum(scores) / len(scores)
        return f"{mean:.1f}{self.unit} ({100 * low:.0f}–{100 * high:.0f})"

    def failures(self) -> list[str]:
        """Items that are wrong, drawn with a fixed seed."""
        wrong = [said for said, score in zip(self.said, self.right, strict=True) if not score]
        drawn = random.Random(0).sample(wrong, min(SHOWN, len(wrong)))
        return [f"| {self.name} | {each.file} | {cell(each.wanted)} | {cell(each.text)} |" for each in drawn]


def cell(text: str) -> str:
    """A text that fits into a cell of a table."""
    return " ".join(text.split()).replace("|", "/")


def lines_of(rows: Sequence[Row]) -> list[str]:
    """The table, then failures."""
    lines = [*HEAD, *(row.line() for row in rows), ""]
    failed = [line for row in rows if row.said for line in row.failures()]
    if failed:
        lines += ["Failures, drawn at random:", "", "| of | file | should be | is |", "|---|---|---|---|"]
        lines += [*failed, ""]
    return lines
