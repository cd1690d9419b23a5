"""The one place where the demo uses a model: through its scheduler, or in a call on a lent GPU."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Generator
from concurrent.futures import Future, wait
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Literal, NamedTuple, TypeVar, cast

from epalm.adapter import Adapter
from epalm.demo.gpu import on_gpu
from epalm.demo.models import Loading
from epalm.demo.service import Service
from epalm.explain import Explanation
from epalm.model import EPALM, Request
from epalm.serving import Scheduler

HALF = "\ufffd"  # what is left of a character that the longest text cuts
POLL = 0.3  # seconds between looks at how far something is

Mask = Literal["causal", "reference"]
T = TypeVar("T")


@dataclass(frozen=True)
class Settings:
    """How to answer; no model, mask or length leaves the choice to the page or the adapter."""

    beams: int = 1
    max_new_tokens: int = 0
    model: str | None = None
    mask: Mask | None = None

    @property
    def length(self) -> int | None:
        """The longest text in tokens, if one is wanted."""
        return int(self.max_new_tokens) or None


class Step(NamedTuple):
    """How far an answer is: the text so far, a sentence while it waits, at the end how sure the model is."""

    text: str
    says: str = ""
    confidence: float | None = None


class Answering:
    """Texts and explanations of one service's models."""

    def __init__(self, service: Service):
        self.service = service
        # What runs on a lent GPU gets names alone: a model would not fit through the pipe to it.
        self.lent = {task: on_gpu(task)(self._stream) for task in ("caption", "qa")}
        self.lent_explain = on_gpu("explain")(self._explain)

    def texts(self, loading: Loading, request: Request, settings: Settings) -> Generator[Step, None, None]:
        """Steps of an answer; closing the iterator cancels the request."""
        scheduler, text = loading.scheduler, ""
        if scheduler is None:
            for text in self.lent["caption" if request.question is None else "qa"](request, settings):
                yield Step(text)
            return
        if settings.mask is not None:
            masked = with_mask(loading.result(), settings.mask)
            beams, length = int(settings.beams), settings.length
            for found in _alone(scheduler, lambda: masked.generate([request], beams, length)[0]):
                yield Step(found or "")
            return
        grown: SimpleQueue[str | None] = SimpleQueue()
        ticket = scheduler.submit(
            request, beams=int(settings.beams), max_new_tokens=settings.length, on_text=grown.put
        )
        ticket.add_done_callback(lambda _: grown.put(None))
        try:
            while True:
                try:
                    longer = grown.get(timeout=POLL)
                except Empty:
                    yield Step(text, waiting(ticket.position))
                    continue
                if longer is None:
                    break
                text = longer.rstrip(HALF) if settings.beams == 1 else longer
                yield Step(text)
            ticket.result()
            yield Step(text, "", ticket.confidence)
        finally:
            ticket.cancel()

    def explanation(
        self, loading: Loading, request: Request, settings: Settings
    ) -> Generator[Explanation | None, None, None]:
        """None while it is computed, then the explanation."""
        if loading.scheduler is None:
            yield self.lent_explain(request, settings)
            return
        model, beams, length = loading.result(), int(settings.beams), settings.length
        yield from _alone(loading.scheduler, lambda: model.explain(request, beams, length))

    def _stream(self, request: Request, settings: Settings) -> Generator[str, None, None]:
        model = self.service.models.begin(settings.model).result()
        if settings.mask is not None:
            model = with_mask(model, settings.mask)
        yield from model.stream(request, int(settings.beams), settings.length)

    def _explain(self, request: Request, settings: Settings) -> Explanation:
        model = self.service.models.begin(settings.model).result()
        return model.explain(request, int(settings.beams), settings.length)


def _alone(scheduler: Scheduler, function: Callable[[], T]) -> Generator[T | None, None, None]:
    """Run something that uses the model by itself: None while it waits or works, then its result."""
    result: Future[T] = scheduler.run(function)
    try:
        while not wait([result], POLL).done:
            yield None
        yield result.result()
    finally:
        result.cancel()


def with_mask(model: EPALM, mask: Mask) -> EPALM:
    """The same model, whose perceptual token sees what another mask mode lets it see; nothing is copied."""
    adapters = {}
    for name, module in model.adapters.items():
        adapter = cast(Adapter, module)
        changed = copy.copy(adapter)
        injection = dataclasses.replace(adapter.config.injection, mask=mask)
        changed.config = dataclasses.replace(adapter.config, injection=injection)
        adapters[name] = changed
    return EPALM(model.lm, model.tokenizer, adapters, model.encoders)


def waiting(position: int) -> str:
    """One's place in the scheduler's queue; nothing when it is being computed."""
    if position < 2:
        return "You are next." if position else ""
    return f"{position - 1} requests are ahead of yours."
