"""What the page's buttons and the endpoints do."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import gradio as gr

from epalm.demo import history, logs
from epalm.demo.answering import POLL, Answering, Settings, Step
from epalm.demo.problems import Refusal, explained, shown
from epalm.demo.service import Service
from epalm.demo.texts import TABS
from epalm.errors import EPALMError
from epalm.explain import Explanation
from epalm.media.container import Modality
from epalm.media.recipes import recipe_from_dict
from epalm.model import EPALM, Request

Upload = dict[str, Any] | None  # the page's description of an uploaded file; "path" is where it lies
# The flow says how many may run, and refuses the others with a sentence; in Gradio's own line they would
# wait without a word. When each uses the model is the scheduler's business.
RUNS: dict[str, Any] = {"concurrency_limit": None}

Update = tuple[str, str, history.Entry | None]  # text so far, a sentence about it, the entry once it is final


class Handlers:
    """The handlers of one service."""

    def __init__(self, service: Service):
        self.service = service
        self.answering = Answering(service)

    def answers(
        self,
        endpoint: str,
        modality: Modality,
        upload: Upload,
        question: str | None,
        settings: Settings,
        request: gr.Request | None,
    ) -> Iterator[Update]:
        """A text as it grows; every problem becomes one sentence with a code."""
        service, started = self.service, time.perf_counter()
        path, outcome = None, "stopped"
        try:
            path = self._admitted(modality, upload, request)
            self._checked(modality, path, question, settings)
            yield "", "", None
            begun: float | None = None
            last, longest = Step(""), service.limits.answer_seconds
            with service.flow.enter(), service.models.use(settings.model) as loading:
                while not loading.done.wait(POLL):
                    yield "", loading.says, None
                asked = Request(path, question, adapter_of(loading.result(), modality, question))
                with closing(self.answering.texts(loading, asked, settings)) as texts:
                    for last in texts:
                        yield last.text, last.says, None
                        begun = begun or (None if last.says else time.perf_counter())
                        if begun and time.perf_counter() - begun > longest:
                            raise Refusal("too-slow", f"An answer may take {longest} seconds here.")
            seconds = time.perf_counter() - started
            name = service.models.offer(settings.model).name
            beams, tokens = int(settings.beams), int(settings.max_new_tokens)
            item = history.entry(
                modality, path, question, last.text, last.confidence, name, beams, tokens, seconds
            )
            outcome = "ok"
            yield last.text, f"Took {seconds:.1f} seconds.", item
        except Exception as error:
            outcome, sentence = explained(error, path)
            raise shown(outcome, sentence) from None
        finally:
            self.record(endpoint, outcome, started)

    def _admitted(self, modality: Modality | None, upload: Upload, request: gr.Request | None) -> Path:
        """The file of a request, unless its client asks too often or gave none."""
        self.service.rate.check(self.service.client(request))
        path = self.service.file(upload, missing(modality))
        self.service.uploads.use(path, visit(request))
        return path

    def _checked(
        self, modality: Modality | None, path: Path, question: str | None, settings: Settings
    ) -> None:
        """Refusal of what is over a limit."""
        limits = self.service.limits
        limits.check_settings(settings.beams, settings.max_new_tokens, settings.mask)
        limits.check_question(question)
        reader = self.service.reader
        limits.check_file(path, modality or reader.modality_of(path), reader)

    def explanation(
        self,
        modality: Modality | None,
        upload: Upload,
        question: str | None,
        settings: Settings,
        request: gr.Request | None,
    ) -> Iterator[tuple[str, Explanation | None]]:
        """Where an answer comes from, after sentences about the way there.

        Args:
            modality: None for what the file is.
        """
        service, started = self.service, time.perf_counter()
        path, outcome = None, "stopped"
        try:
            path = self._admitted(modality, upload, request)
            self._checked(modality, path, question, settings)
            modality = modality or service.reader.modality_of(path)
            with service.flow.enter(), service.models.use(settings.model) as loading:
                while not loading.done.wait(POLL):
                    yield loading.says, None
                asked = Request(path, question, adapter_of(loading.result(), modality, question))
                with closing(self.answering.explanation(loading, asked, settings)) as steps:
                    for found in steps:
                        if found is None:
                            yield "Looking into the model …", None
            outcome = "ok"
            yield f"Took {time.perf_counter() - started:.1f} seconds.", found
        except Exception as error:
            outcome, sentence = explained(error, path)
            raise shown(outcome, sentence) from None
        finally:
            self.record("explain", outcome, started)

    def compare(
        self,
        modality: Modality,
        upload: Upload,
        question: str | None,
        both: tuple[Settings, Settings],
        request: gr.Request | None,
    ) -> Iterator[tuple[str, str, str, str]]:
        """The same input answered in two ways, one after the other: (text, sentence) of each."""
        first: tuple[str, str] = "", ""
        for text, says, _ in self.answers("compare", modality, upload, question, both[0], request):
            first = text, says
            yield *first, "", ""
        for text, says, _ in self.answers("compare", modality, upload, question, both[1], request):
            yield *first, text, says

    def given(self, upload: Upload, request: gr.Request | None) -> Path:
        """The file that a visit gave, which is deleted with it, asked about or not."""
        path = self.service.file(upload, "There is no file.")
        self.service.uploads.use(path, visit(request))
        return path

    def perceived(
        self, modality: Modality, upload: Upload, asks: bool, model: str | None, request: gr.Request | None
    ) -> tuple[dict, str]:
        """What the model gets of a file, hidden where there is nothing, and a sentence; never an error."""
        if upload is None:
            return gr.update(value=None, visible=False), ""
        path = None
        try:
            path = self.given(upload, request)
            self.service.limits.check_file(path, modality, self.service.reader)
            recipe = self.recipe(modality, asks, model)
            made, sentence = recipe.preview(path, self.service.reader)
            save, who = self.service.uploads.save, visit(request)
            value = (
                [(save(frame, who), name) for frame, name in made] if modality == "video" else save(made, who)
            )
            return gr.update(value=value, visible=True), sentence
        except Exception as error:
            return gr.update(value=None, visible=False), explained(error, path)[1]

    def recipe(self, modality: Modality, asks: bool, model: str | None) -> Any:
        """How a file becomes an encoder's input; known before the model is loaded."""
        tasks = self.service.models.offer(model).tasks(modality)
        config = tasks.get("qa" if asks else "caption")
        if config is None:
            raise Refusal(
                "bad-model", f"This model has no adapter for {modality} {'qa' if asks else 'caption'}."
            )
        return recipe_from_dict(config.task.modality, config.recipe)

    def pictured(self, item: history.Entry | None, request: gr.Request | None) -> history.Entry | None:
        """An entry with its thumbnail; None if there is none to remember."""
        if item is None:
            return None
        try:
            recipe = self.recipe(item["modality"], item["question"] is not None, item["model"])
            image = history.thumbnail(recipe, item, self.service.reader)
            return item | {"thumbnail": self.service.uploads.save(image, visit(request))}
        except EPALMError:  # it was deleted meanwhile
            return None

    def delete_uploads(self, request: gr.Request | None) -> str:
        """Delete the files of this visit and what was made of them; a sentence about it."""
        self.service.uploads.forget(visit(request))
        return "Your files and answers are deleted."

    def leave(self, request: gr.Request) -> None:
        """Somebody closed the page: what nobody else used is deleted."""
        self.service.uploads.forget(visit(request))

    def record(self, endpoint: str, outcome: str, started: float) -> None:
        """Count a request and log it, without anything that the visitor sent."""
        seconds = time.perf_counter() - started
        self.service.metrics.requests.labels(endpoint, outcome).inc()
        self.service.metrics.seconds.labels(endpoint).observe(seconds)
        logs.event("request", endpoint=endpoint, outcome=outcome, seconds=round(seconds, 3))


def visit(request: gr.Request | None) -> str:
    """The visit that a request belongs to."""
    return (None if request is None else request.session_hash) or ""


def missing(modality: Modality | None) -> str:
    """What to tell those who gave no file."""
    if modality is None:
        return "There is no file yet: upload one."
    return f"There is no {TABS[modality].noun} yet: {TABS[modality].take}."


def adapter_of(model: EPALM, modality: Modality, question: str | None) -> str:
    """The adapter for a caption, or for an answer."""
    try:
        return model.adapter_for(modality, "caption" if question is None else "qa")
    except EPALMError as error:
        raise Refusal("bad-model", str(error)) from None
