"""One tab of the page: the file on the left, what to do with it and the text on the right."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import gradio as gr

from epalm.demo import texts
from epalm.demo.answering import Settings
from epalm.demo.compare import compare_panel
from epalm.demo.explain_panel import explain_panel
from epalm.demo.handlers import RUNS, Handlers, Upload
from epalm.demo.limits import MOST_BEAMS, MOST_TOKENS
from epalm.demo.models import Offer
from epalm.demo.problems import Refusal
from epalm.demo.service import EXAMPLES
from epalm.demo.texts import TABS
from epalm.media.container import Modality

PREVIEWS: dict[str, Any] = {"concurrency_id": "preview", "concurrency_limit": 2}  # files are read, no more
PRIVATE: dict[str, Any] = {"api_visibility": "private"}
MODES = {"caption": "Caption", "qa": "Question"}


@dataclass(frozen=True)
class MediaTab:
    """The parts of a tab that the page's other parts set."""

    modality: Modality
    tab: gr.Tab
    media: gr.Image | gr.Video | gr.Audio
    mode: gr.Radio
    question: gr.Textbox
    questions: gr.Dataset
    describe: gr.Button
    ask: gr.Button
    beams: gr.Slider
    length: gr.Slider
    answer: gr.Textbox
    status: gr.Markdown
    runs: tuple[gr.events.Dependency, ...]
    result: gr.State  # the entry of the run's answer

    @property
    def replayed(self) -> list[Any]:
        """What a replay fills in."""
        return [
            self.media,
            self.mode,
            self.question,
            self.beams,
            self.length,
            self.answer,
            self.status,
        ]

    @property
    def of_model(self) -> list[Any]:
        """What another model changes."""
        return [self.tab, self.mode, self.questions, self.question, self.ask, self.describe, self.beams]


def player(modality: Modality) -> gr.Image | gr.Video | gr.Audio:
    """Where a file is given and shown. It stays as it is: no option that would have FFmpeg convert it."""
    if modality == "video":
        return gr.Video(label="Video", sources=["upload", "webcam"], buttons=[], elem_classes="film")
    if modality == "audio":
        return gr.Audio(label="Sound", type="filepath", sources=["upload", "microphone"], buttons=[])
    return gr.Image(
        label="Picture",
        type="filepath",
        sources=["upload", "webcam", "clipboard"],
        height=340,
        buttons=["fullscreen"],
    )


def perceived(modality: Modality) -> gr.components.Component | None:
    """What the model sees or hears of the file; nothing for images, which it sees whole."""
    if modality == "video":
        return gr.Gallery(
            label="Frames that the model sees",
            show_label=False,
            columns=4,
            allow_preview=False,
            buttons=[],
            interactive=False,
            visible=False,
            elem_classes="frames",
        )
    if modality == "audio":
        return gr.Image(
            label="Spectrogram that the model hears",
            show_label=False,
            buttons=["fullscreen"],
            interactive=False,
            visible=False,
        )
    return None


def questions_of(offer: Offer, modality: Modality) -> list[list[str]]:
    """Questions to click."""
    return [[question] for question in TABS[modality].questions] if "qa" in offer.tasks(modality) else []


def buttons_when(busy: bool) -> list[dict]:
    """Which of the buttons to describe, to ask and to stop can be pressed."""
    return [gr.update(interactive=not busy), gr.update(interactive=not busy), gr.update(interactive=busy)]


def media_tab(handlers: Handlers, modality: Modality, model: gr.Dropdown, again: gr.State) -> MediaTab:
    """Build the tab of a modality.

    Args:
        model: the page's choice of a model.
        again: (modality, number) of the last replay; when it changes, the tab of that modality runs.
    """
    words = TABS[modality]
    offer = handlers.service.models.offer(None)
    tasks = offer.tasks(modality)
    captions = "caption" in tasks or not tasks
    default = next(iter(tasks.values())).generation.num_beams if tasks else 1
    with gr.Tab(words.name, id=modality, visible=bool(tasks)) as tab:
        result = gr.State(None)
        with gr.Row():
            with gr.Column():
                media = player(modality)
                note = gr.Markdown(label="Sentence", elem_classes="note", visible=modality != "image")
                preview = perceived(modality)
                paths = sorted(EXAMPLES.glob(words.examples))
                examples = gr.Examples(
                    [[str(path)] for path in paths],
                    media,
                    cache_examples=False,
                    label="Or try one of these",
                    # A sound has no picture to click on.
                    example_labels=[path.stem.capitalize() for path in paths]
                    if modality == "audio"
                    else None,
                )
                gr.Markdown(words.limit, elem_classes="note")
            with gr.Column():
                modes = [label for task, label in MODES.items() if task in tasks] or ["Caption"]
                mode = gr.Radio(modes, value=modes[0], label="What should it do?", visible=len(modes) > 1)
                question = gr.Textbox(
                    label="Your question", placeholder="what is this?", max_lines=3, visible=not captions
                )
                questions = gr.Dataset(
                    label="Questions to click",
                    components=[gr.Textbox(visible=False)],
                    samples=questions_of(offer, modality),
                    visible=not captions,
                )
                with gr.Row():
                    describe = gr.Button("Describe it", variant="primary", min_width=120, visible=captions)
                    ask = gr.Button("Ask", variant="primary", min_width=120, visible=not captions)
                    stop = gr.Button("Stop", variant="stop", min_width=120, interactive=False)
                answer = gr.Textbox(
                    label="Answer", lines=2, buttons=["copy"], interactive=False, elem_classes="answer",
                    placeholder=f"Give it a {words.noun}, or choose an example.",
                )  # fmt: skip
                status = gr.Markdown(label="Time taken", elem_classes="status")
                meter = gr.HTML(visible=False, padding=False)
                with gr.Accordion("Search settings", open=False):
                    beams = gr.Slider(
                        1, MOST_BEAMS, value=default, step=1, label="Beams",
                        info="With one, words appear one by one; with several, the text is shown when final.",
                    )  # fmt: skip
                    length = gr.Slider(
                        0, MOST_TOKENS, value=0, step=1, label="Longest text, in tokens",
                        info="A token is a word or a part of one. 0 leaves it to the model.",
                    )  # fmt: skip
        tab_inputs = [media, mode, question, model, beams, length]
        explain_panel(handlers, modality, tab_inputs)
        compare_panel(handlers, modality, tab_inputs)

    def of_mode(chosen: str) -> list[dict]:
        asks = chosen == "Question"
        return [gr.update(visible=asks)] * 3 + [gr.update(visible=not asks)]

    def run(
        media: Upload, mode: str, question: str, model: str, beams: int, length: int, request: gr.Request
    ) -> Iterator[tuple[Any, ...]]:
        asked = question if mode == "Question" else None
        task = "caption" if asked is None else "ask"
        settings = Settings(beams, length, model)
        endpoint = f"{task}_{modality}"
        hidden = gr.update(value="", visible=False)
        for text, says, item in handlers.answers(endpoint, modality, media, asked, settings, request):
            known = item and gr.update(value=texts.meter(item["confidence"], words.noun), visible=True)
            yield text, says, known or hidden, item, *buttons_when(busy=item is None)

    def rerun(
        replay: tuple[str, int],
        media: Upload,
        mode: str,
        question: str,
        model: str,
        beams: int,
        length: int,
        request: gr.Request,
    ) -> Iterator[tuple[Any, ...]]:
        if replay[0] != modality:
            yield gr.skip(), gr.skip(), gr.skip(), None, *[gr.skip()] * 3
            return
        yield from run(media, mode, question, model, beams, length, request)

    def show(
        media: Upload, mode: str = modes[0], model: str | None = None, request: gr.Request | None = None
    ) -> tuple[dict, str]:
        return handlers.perceived(modality, media, mode == "Question", model, request)

    def give(media: Upload, request: gr.Request) -> None:
        with suppress(Refusal):  # it was taken away
            handlers.given(media, request)

    show.__name__ = "frames" if modality == "video" else "spectrogram"
    mode.change(
        of_mode, mode, [question, questions, ask, describe],
        queue=False, show_progress="hidden", api_visibility="private",
    )  # fmt: skip
    questions.click(lambda sample: sample[0], questions, question, queue=False, api_visibility="private")
    # The library's preprocessing would open the file, and fail on one that is no image without a sentence.
    # Without it the file is still checked to be an upload, and the numbers are checked by the handler.
    shared: dict[str, Any] = {
        "outputs": [answer, status, meter, result, describe, ask, stop],
        "preprocess": False,
        "show_progress": "minimal",
        "show_progress_on": answer,
        "api_visibility": "private",
    } | RUNS
    asking: list[Any] = [describe.click, ask.click, question.submit]
    runs = (
        gr.on(asking, run, tab_inputs, **shared),
        again.change(rerun, [again, *tab_inputs], **shared),
    )

    def of_example(last: tuple[str, int], mode: str, question: str | None) -> tuple[str, int]:
        """Ask about a chosen example at once, unless it is still open what."""
        return (modality, last[1] + 1) if mode == "Caption" or (question or "").strip() else last

    buttons = [describe, ask, stop]
    for each in runs:
        each.failure(
            lambda: buttons_when(busy=False), None, buttons,
            queue=False, show_progress="hidden", **PRIVATE,
        )  # fmt: skip
    examples.load_input_event.then(
        of_example, [again, mode, question], again, show_progress="hidden", **PRIVATE
    )  # in the queue: what changes outside of it does not trigger the state's own events
    if preview is None:
        media.change(give, media, None, preprocess=False, queue=False, show_progress="hidden", **PRIVATE)
    else:
        gr.on(
            [media.change, mode.change, *asking],
            show,
            [media, mode, model],
            [preview, note],
            preprocess=False,
            trigger_mode="always_last",
            show_progress="hidden",
            api_name=show.__name__,
            api_description=f"What the model perceives of a {words.noun}, and a sentence about it.",
            **PREVIEWS,
        )
    stop.click(
        lambda: ["Stopped.", *buttons_when(busy=False)], None, [status, *buttons],
        cancels=list(runs), queue=False, api_visibility="private",
    )  # fmt: skip
    built = MediaTab(
        modality, tab, media, mode, question, questions, describe, ask, beams, length, answer, status,
        runs, result,
    )  # fmt: skip
    endpoints(handlers, built, model, default)
    return built


def endpoints(handlers: Handlers, tab: MediaTab, model: gr.Dropdown, default: int) -> None:
    """The endpoints of a modality: /caption_image and /ask_image, and so on; images have short names, too."""
    modality = tab.modality

    def caption(
        media: Upload,
        beams: int = default,
        max_new_tokens: int = 0,
        model: str | None = None,
        request: gr.Request | None = None,
    ) -> Iterator[tuple[str, str]]:
        settings = Settings(beams, max_new_tokens, model)
        for text, says, _ in handlers.answers(
            f"caption_{modality}", modality, media, None, settings, request
        ):
            yield text, says

    def ask(
        media: Upload,
        question: str,
        beams: int = default,
        max_new_tokens: int = 0,
        model: str | None = None,
        request: gr.Request | None = None,
    ) -> Iterator[tuple[str, str]]:
        settings = Settings(beams, max_new_tokens, model)
        question = question if isinstance(question, str) else ""
        for text, says, _ in handlers.answers(
            f"ask_{modality}", modality, media, question, settings, request
        ):
            yield text, says

    noun, streams = TABS[modality].noun, "; streams (text so far, time taken)."
    offered = {task for offer in handlers.service.models.offers.values() for task in offer.tasks(modality)}
    tail = [tab.beams, tab.length, model]
    for task, name, function, inputs, does in (
        ("caption", "caption", caption, [tab.media, *tail], f"Describe a {noun}"),
        ("qa", "ask", ask, [tab.media, tab.question, *tail], f"Answer a question about a {noun}"),
    ):
        if task not in offered:
            continue
        for endpoint in (name, f"{name}_image") if modality == "image" else (f"{name}_{modality}",):
            gr.on(
                [],
                named(endpoint, function),
                inputs,
                [tab.answer, tab.status],
                preprocess=False,
                api_name=endpoint,
                api_description=does + streams,
                **RUNS,
            )


def named(name: str, function: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    """The same function under an endpoint's name, which the tool for language models gets."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Iterator[Any]:
        yield from function(*args, **kwargs)

    call.__name__ = name
    return call
