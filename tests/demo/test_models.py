"""Models that make room for each other while visitors wait for them."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from starlette.requests import Request as WebRequest

from epalm import EPALM, EPALMError, Request
from epalm.demo.answering import Settings
from epalm.demo.handlers import Handlers
from epalm.demo.models import Models, described
from epalm.demo.page import page
from epalm.demo.server import routes
from epalm.demo.service import Service

FIRST = Settings(model="first")


class Shelf:
    """Two names for one tiny model, of which one at a time is in memory.

    Fields:
        slow: holds the loading of "first" until it is set.
        loads: the names that were loaded, in order.
    """

    def __init__(self, model: EPALM):
        self.slow, self.loads = threading.Event(), list[str]()

        def load(name: str, _: Callable[[str], None]) -> EPALM:
            if name == "first":
                self.slow.wait(60)
            self.loads.append(name)
            return model

        adapters: dict[str, Any] = dict(model.adapters.items())
        configs = {name: adapter.config for name, adapter in adapters.items()}
        self.service = Service(Models([described(name, configs, "") for name in ("first", "second")], load))
        self.handlers = Handlers(self.service)

    def replace(self) -> None:
        """Let "second" take the place of "first"."""
        self.service.models.begin("first").done.wait()
        self.service.models.begin("second").done.wait()
        assert self.service.models.state("first") is None

    def health(self) -> str:
        endpoint = routes(self.service)[0].endpoint
        return json.loads(endpoint(WebRequest({"type": "http"})).body)["status"]


@pytest.fixture(scope="module")
def model(tiny_model_dir: Path) -> EPALM:
    return EPALM.from_pretrained(tiny_model_dir, device="cpu")


@pytest.fixture
def shelf(model: EPALM, picture: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shelf]:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(Path(picture).parent))
    shelf = Shelf(model)
    yield shelf
    shelf.slow.set()


def test_who_waited_for_a_model_gets_its_answer_although_another_took_its_place(shelf, model, picture):
    answers = shelf.handlers.answers("caption", "image", {"path": picture}, None, FIRST, None)
    assert [next(answers)[1] for _ in range(2)] == ["", "The model is loading …"]
    shelf.slow.set()
    shelf.replace()
    *_, (text, says, _) = answers
    assert text == model.caption(picture) and says.startswith("Took ")
    assert shelf.loads == ["first", "second"]


def test_who_waits_for_a_model_is_in_the_line_whose_end_is_refused(shelf, picture):
    shelf.service.flow.most = 1
    first, second = (
        shelf.handlers.answers("caption", "image", {"path": picture}, None, FIRST, None) for _ in range(2)
    )
    assert [next(first)[1] for _ in range(2)] == ["", "The model is loading …"]
    with pytest.raises(gr.Error, match="1 requests are waiting already"):
        [next(second) for _ in range(2)]
    shelf.slow.set()
    *_, (_, says, _) = first
    assert says.startswith("Took ")


def test_a_queued_explanation_is_made_by_the_model_that_it_was_asked_of(shelf, model, picture):
    shelf.slow.set()
    loading, free = shelf.service.models.begin("first"), threading.Event()
    loading.done.wait()
    loading.scheduler.run(free.wait)  # the model is busy
    steps = shelf.handlers.explanation("image", {"path": picture}, None, FIRST, None)
    assert next(steps)[0].startswith("Looking")
    shelf.replace()
    free.set()
    *_, (_, explanation) = steps
    assert explanation.text == model.caption(picture)
    assert shelf.loads == ["first", "second"]


def test_a_model_that_made_room_ends_when_its_last_user_is_gone(shelf, picture):
    shelf.slow.set()
    with shelf.service.models.use("first") as loading:
        shelf.replace()
        assert loading.scheduler.submit(Request(picture)).result(60)
    loading.scheduler._thread.join(60)
    with pytest.raises(EPALMError, match="closed"):
        loading.scheduler.submit(Request(picture))


def test_the_page_looks_at_a_chosen_model_from_before_its_loading_until_its_end(shelf):
    [look] = [fn.fn for fn in page(shelf.service).fns.values() if fn.name == "look"]
    bar, timer = look("first")
    assert timer["active"] and not bar["visible"]  # the request that loads it is yet to come
    loading = shelf.service.models.begin("first")
    bar, timer = look("first")
    assert timer["active"] and bar["visible"]
    shelf.slow.set()
    loading.done.wait()
    bar, timer = look("first")
    assert not timer["active"] and not bar["visible"]


def test_a_server_whose_default_model_made_room_is_well(shelf):
    assert shelf.health() == "loading"
    shelf.slow.set()
    shelf.service.models.begin(None).done.wait()
    assert shelf.health() == "ok"
    shelf.replace()
    assert shelf.health() == "ok"
