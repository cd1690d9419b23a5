"""A request on its way through the scheduler, and the answer to come."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor

from epalm.adapter import Adapter
from epalm.config import GenerationConfig
from epalm.errors import EPALMError

if TYPE_CHECKING:
    from epalm.model import Request
    from epalm.serving.scheduler import Scheduler

OnText = Callable[[str], None]


class Busy(EPALMError):
    """The queue is full."""


@dataclass
class Work:
    """A request that is being processed."""

    request: Request
    beams: int | None
    max_new_tokens: int | None
    on_text: OnText | None
    options: dict[str, Any]
    adapter: str = ""
    ids: list[int] = field(default_factory=list)
    media: Tensor | None = None  # the encoder's input
    features: list[Tensor] | None = None  # (1, D_j) each, if a reader thread has encoded the file
    generation: GenerationConfig | None = None
    shown: str = ""  # the last text passed to `on_text`


class Ticket(Future[str]):
    """A future of the answer's text, with its position in the queue.

    Once done, `log_probability` is the mean per token in nats, as in `Answer`; with beam search it is set
    only if the adapter has a calibrated confidence.

    `result()` raises the request's error, or `CancelledError`.
    """

    def __init__(self, scheduler: Scheduler, work: Work):
        super().__init__()
        self._scheduler = scheduler
        self._work = work
        self.dropped = False
        self.log_probability: float | None = None

    @property
    def confidence(self) -> float | None:
        """How often answers with this log-probability are right, as in `Answer`; None if not calibrated."""
        config = cast(Adapter, self._scheduler.model.adapters[self._work.adapter]).config.confidence
        return None if config is None or self.log_probability is None else config.of(self.log_probability)

    def cancel(self) -> bool:
        """Cancel the request, even while it is being computed; False if it is already done.

        A running request leaves the batch before the next token.
        """
        if self.done():
            return False
        self.dropped = True
        if super().cancel():
            self._scheduler._forget(self)
        return True

    def cancelled(self) -> bool:
        """Whether it was cancelled, before or during its computation."""
        return super().cancelled() or (self.dropped and self.done())

    @property
    def position(self) -> int:
        """Position in the queue: 1 is next; 0 if it is being computed or done."""
        return self._scheduler._position(self)


def tell(ticket: Ticket, text: str) -> None:
    """Pass on a text that has grown; an error in the listener fails only its own request."""
    work = ticket._work
    if work.on_text is None or text == work.shown:
        return
    work.shown = text
    try:
        work.on_text(text)
    except Exception as error:
        ticket.dropped = True
        fail([ticket], error)


def finish(ticket: Ticket, text: str) -> None:
    if ticket.dropped:
        fail([ticket], CancelledError())
    else:
        with suppress(InvalidStateError):  # cancelled meanwhile
            ticket.set_result(text)


def fail(tickets: Sequence[Ticket], error: BaseException) -> None:
    for ticket in tickets:
        with suppress(InvalidStateError):  # already failed or cancelled
            ticket.set_exception(error)
