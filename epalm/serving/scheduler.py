"""One queue for one model: requests of all tasks, adapters and modalities are computed together.

    scheduler = Scheduler(model)
    ticket = scheduler.submit(Request("photo.jpg"), on_text=print)
    ticket.result()

A few threads open, preprocess and, on a CPU, encode the files; one thread generates the texts. It adds new
requests before every token, so a late request joins the running batch and a single one never waits.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList

from epalm.adapter import Adapter
from epalm.config import GenerationConfig
from epalm.cpu import pack
from epalm.decoding import with_overrides
from epalm.errors import EPALMError
from epalm.serving.running import Newcomer, RunningBatch, Text, can_run, layout, token_limit
from epalm.serving.ticket import Busy, OnText, Ticket, Work, fail, finish, tell

if TYPE_CHECKING:
    from epalm.model import EPALM, Request

T = TypeVar("T")


class Scheduler:
    """Answers many requests with one model.

    Args:
        rows: the most texts to generate at the same time.
        waiting: the most requests in the queue; further ones are refused.
        readers: number of threads that open, preprocess and encode files.
    """

    def __init__(self, model: EPALM, *, rows: int = 32, waiting: int = 256, readers: int = 2):
        for part in (model.lm.base, *model.encoders.values()):
            pack(part)
        self.model = model
        self.rows, self.waiting = rows, waiting
        self._changed = threading.Condition()
        self._queue: list[Ticket] = []  # requests not yet started, in order; those that are ready have media
        self._jobs: list[tuple[Callable[[], Any], Future]] = []  # functions to run between two tokens
        self._closed = False
        self._batch = RunningBatch(model.lm)
        # On a CPU, encoding a batch is no faster than encoding its items, so it need not wait for the LM.
        self._readers_encode = model.lm.device.type == "cpu"
        self._readers = ThreadPoolExecutor(readers, thread_name_prefix="epalm-reader")
        self._thread = threading.Thread(target=self._work, name="epalm-scheduler", daemon=True)
        self._thread.start()

    def submit(
        self,
        request: Request,
        *,
        beams: int | None = None,
        max_new_tokens: int | None = None,
        on_text: OnText | None = None,
        **options: Any,
    ) -> Ticket:
        """Queue a request.

        Args:
            beams, max_new_tokens: override the adapter's defaults.
            on_text: called with the text so far whenever it grows, in the scheduler's thread, so it must be
                quick; with beam search, called once with the final text.
            options: passed to `transformers`' `generate`; such a request is computed alone.
        Raises:
            Busy: the queue is full.
        """
        ticket = Ticket(self, Work(request, beams, max_new_tokens, on_text, options))
        with self._changed:
            if self._closed:
                raise EPALMError("The scheduler is closed.")
            if len(self._queue) >= self.waiting:
                raise Busy(f"{len(self._queue)} requests are waiting already; please try again in a moment.")
            self._queue.append(ticket)
        self._readers.submit(self._read, ticket)
        return ticket

    def stream(self, request: Request, **options: Any) -> Iterator[str]:
        """Yield the growing text; options as in `submit`. Closing the iterator cancels the request."""
        grown = threading.Condition()
        texts: list[str] = []

        def add(text: str) -> None:
            with grown:
                texts.append(text)
                grown.notify()

        def wake(_: Any) -> None:
            with grown:
                grown.notify()

        ticket = self.submit(request, on_text=add, **options)
        ticket.add_done_callback(wake)
        try:
            while True:
                with grown:
                    grown.wait_for(lambda: texts or ticket.done())
                    latest = texts[-1] if texts else None
                    texts.clear()
                if latest is None:
                    break
                yield latest
            ticket.result()
        finally:
            ticket.cancel()

    def run(self, function: Callable[[], T]) -> Future[T]:
        """Call a function between two tokens, in the thread that computes, while nothing else uses the model.

        For work that is not a request, such as an explanation.
        """
        result: Future[T] = Future()
        with self._changed:
            if self._closed:
                raise EPALMError("The scheduler is closed.")
            self._jobs.append((function, result))
            self._changed.notify()
        return result

    def close(self, wait: bool = True) -> None:
        """Refuse new requests; finish accepted ones if `wait`, otherwise cancel them."""
        with self._changed:
            self._closed = True
            left = [] if wait else [*self._queue, *(text.owner for text in self._batch.texts)]
            self._changed.notify()
        for ticket in left:
            ticket.cancel()
        self._thread.join()
        self._readers.shutdown()

    def __enter__(self) -> Scheduler:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    # ---------------------------------------------------------------- the queue

    def _position(self, ticket: Ticket) -> int:
        with self._changed:
            return self._queue.index(ticket) + 1 if ticket in self._queue else 0

    def _forget(self, ticket: Ticket) -> None:
        with self._changed:
            if ticket in self._queue:
                self._queue.remove(ticket)
            self._changed.notify()

    def _read(self, ticket: Ticket) -> None:
        """Open and preprocess a request's file; runs in a reader thread."""
        work = ticket._work
        if ticket.done():
            return
        try:
            name, ids, media = self.model._prepare(work.request)
            config = cast(Adapter, self.model.adapters[name]).config
            generation = with_overrides(config.generation, work.beams, work.max_new_tokens)
            features = self.model.features(name, media[None]) if self._readers_encode else None
        except BaseException as error:
            self._forget(ticket)
            fail([ticket], error)
            return
        with self._changed:
            work.adapter, work.ids, work.generation = name, ids, generation
            work.media, work.features = media, features
            self._changed.notify()

    def _ready(self) -> list[Ticket]:
        """Take tickets whose files have been read out of the queue, as many as there is room for."""
        room = self.rows - len(self._batch)
        ready = [ticket for ticket in self._queue if ticket._work.media is not None][: max(room, 0)]
        taken = {id(ticket) for ticket in ready}
        self._queue = [ticket for ticket in self._queue if id(ticket) not in taken]
        return [ticket for ticket in ready if ticket.set_running_or_notify_cancel()]

    # ---------------------------------------------------------------- the thread that computes

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: len(self._batch) or any(t._work.media is not None for t in self._queue)
                    or self._jobs or (self._closed and not self._queue)
                )  # fmt: skip
                if self._closed and not self._queue and not self._jobs and not len(self._batch):
                    return
                new, jobs = self._ready(), self._jobs[:1]  # one at a time, so that texts keep growing
                del self._jobs[:1]
            for function, result in jobs:
                _call(function, result)
            self._start(new)
            self._step()

    def _start(self, tickets: Sequence[Ticket]) -> None:
        """Start requests that are ready: greedy texts join the batch, others are computed now, in groups."""
        groups: dict[tuple, list[Ticket]] = {}
        for ticket in tickets:
            work = ticket._work
            assert work.generation is not None
            adapted = self.model.adapted[work.adapter]
            if not work.options and can_run(adapted, work.generation):
                groups.setdefault(("joins", *layout(adapted)), []).append(ticket)
                continue
            same = len(work.ids) if adapted.pads_visible else 0
            alone = id(ticket) if work.options else 0
            groups.setdefault((work.adapter, work.generation, same, alone), []).append(ticket)
        for (kind, *_), members in groups.items():
            self._begin(self._join if kind == "joins" else self._make, members)

    def _begin(self, begin: Callable[[list[Ticket]], None], tickets: list[Ticket]) -> None:
        """Begin several requests; where one of them cannot be computed, the others are begun without it."""
        before = len(self._batch)
        try:
            begin(tickets)
        except BaseException as error:
            if len(tickets) > 1 and len(self._batch) == before:  # find out which one failed
                for ticket in tickets:
                    self._begin(begin, [ticket])
            else:
                fail(tickets, error)

    def _join(self, tickets: list[Ticket]) -> None:
        """Let texts join the batch."""
        newcomers = []
        for name in dict.fromkeys(ticket._work.adapter for ticket in tickets):
            members = [ticket for ticket in tickets if ticket._work.adapter == name]
            features = self._features(name, [ticket._work for ticket in members])
            for i, ticket in enumerate(members):
                work = ticket._work
                limit = token_limit(cast(GenerationConfig, work.generation), len(work.ids))
                own = [feature[i : i + 1] for feature in features]
                newcomers.append(Newcomer(ticket, self.model.adapted[name], own, work.ids, limit))
        self._batch.join(newcomers)

    def _make(self, tickets: list[Ticket]) -> None:
        """Make texts of one adapter from beginning to end."""
        works = [ticket._work for ticket in tickets]
        adapted = self.model.adapted[works[0].adapter]
        features = self._features(works[0].adapter, works)
        ids = [work.ids for work in works]
        options = {"stopping_criteria": StoppingCriteriaList([_AllDropped(tickets)])} | works[0].options
        rows = adapted.generate(features, ids, works[0].generation, **options).tolist()
        sure: Sequence[float | None] = [None] * len(rows)
        if adapted.adapter.config.confidence is not None:
            sure = adapted.log_probabilities(features, ids, rows)
        for ticket, row, log_probability in zip(tickets, rows, sure, strict=True):
            text = adapted.text.answer(row)
            ticket.log_probability = log_probability
            tell(ticket, text)
            finish(ticket, text)

    def _features(self, name: str, works: Sequence[Work]) -> list[Tensor]:
        """The encoder's features (B, D_j) of several requests."""
        encoded = [work.features for work in works if work.features is not None]
        if encoded:
            return [torch.cat(each) for each in zip(*encoded, strict=True)]
        return self.model.features(name, torch.stack([cast(Tensor, work.media) for work in works]))

    def _step(self) -> None:
        """Deliver the newest tokens, drop finished and cancelled texts, and add a token to the others."""
        batch = self._batch
        try:
            stay = [place for place, text in enumerate(batch.texts) if not self._hand_out(text)]
            if len(stay) < len(batch):
                batch.keep(stay)
            if len(batch):
                batch.step()
        except BaseException as error:  # out of memory, for example: fail the running texts, keep serving
            fail([text.owner for text in batch.texts], error)
            self._batch = RunningBatch(self.model.lm)

    def _hand_out(self, text: Text) -> bool:
        """Deliver a text to its owner; True if it needs no more tokens."""
        ticket: Ticket = text.owner
        if ticket.dropped:
            fail([ticket], CancelledError())
            return True
        if text.finished or ticket._work.on_text is not None:
            answer = self.model.adapted[ticket._work.adapter].text.answer(text.new)
            if text.finished or not answer.endswith("\ufffd"):  # ends in half a character
                tell(ticket, answer)
            if text.finished:
                ticket.log_probability = text.log_probability / len(text.new)
                finish(ticket, answer)
        return text.finished


class _AllDropped(StoppingCriteria):
    """Ends a generation when all its requests were cancelled."""

    def __init__(self, tickets: Sequence[Ticket]):
        self.tickets = tickets

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        dropped = all(ticket.dropped for ticket in self.tickets)
        return torch.full((input_ids.shape[0],), dropped, device=input_ids.device)


def _call(function: Callable[[], Any], result: Future) -> None:
    """Run a function unless its result was cancelled."""
    if result.set_running_or_notify_cancel():
        try:
            result.set_result(function())
        except BaseException as error:
            result.set_exception(error)
