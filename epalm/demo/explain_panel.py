"""The panel that shows where an answer comes from, and the endpoint that gives it to programs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from epalm.demo.answering import Settings
from epalm.demo.handlers import RUNS, Handlers, Upload
from epalm.explain import Explanation
from epalm.explain.page import as_fragment
from epalm.media.container import Modality

INTRO = (
    "What each word owes to what was seen or heard, where the encoder looked, what else the model could have "
    "said, and what it says blind. It is computed when you ask for it."
)


def explain_panel(handlers: Handlers, modality: Modality, inputs: list[Any]) -> None:
    """A closed panel of a tab.

    Args:
        inputs: the tab's media, mode, question, model, beams and length.
    """
    with gr.Accordion("See how it sees", open=False):
        gr.Markdown(INTRO, elem_classes="note")
        button = gr.Button("Explain the answer")
        status = gr.Markdown(elem_classes="status")
        found = gr.HTML(visible=False)

    def show_explanation(
        media: Upload, mode: str, question: str, model: str, beams: int, length: int, request: gr.Request
    ) -> Iterator[tuple[str, Any]]:
        asked = question if mode == "Question" else None
        for says, explanation in handlers.explanation(
            modality, media, asked, Settings(beams, length, model), request
        ):
            drawn = explanation and gr.update(value=as_fragment(explanation), visible=True)
            yield says, drawn or gr.skip()

    button.click(
        show_explanation,
        inputs,
        [status, found],
        preprocess=False,
        show_progress="minimal",
        show_progress_on=found,
        api_visibility="private",
        **RUNS,
    )


def explain_endpoint(handlers: Handlers, model: gr.Dropdown) -> None:
    """/explain, for a file of any kind."""
    file = gr.File(label="media", visible=False)
    question = gr.Textbox(label="question", visible=False)
    beams = gr.Number(1, label="beams", visible=False, precision=0)
    length = gr.Number(0, label="max_new_tokens", visible=False, precision=0)
    page, numbers = gr.HTML(label="page", visible=False), gr.JSON(label="numbers", visible=False)

    def explain(
        media: Upload,
        question: str | None = None,
        beams: int = 1,
        max_new_tokens: int = 0,
        model: str | None = None,
        request: gr.Request | None = None,
    ) -> tuple[str, dict[str, Any]]:
        settings = Settings(beams, max_new_tokens, model)
        steps = handlers.explanation(None, media, question or None, settings, request)
        [found] = [explanation for _, explanation in steps if explanation is not None]
        return as_fragment(found), as_numbers(found)

    gr.on(
        [],
        explain,
        [file, question, beams, length, model],
        [page, numbers],
        preprocess=False,
        api_name="explain",
        api_description="Where an answer comes from: HTML, and the numbers. No question means the caption.",
        **RUNS,
    )


def as_numbers(explanation: Explanation) -> dict[str, Any]:
    """An explanation for JSON, without its pictures."""
    return {
        "text": explanation.text,
        "words": list(explanation.words),
        "log_probabilities": explanation.log_probabilities.tolist(),
        "sources": list(explanation.sources),
        "layers": [list(layers) for layers in explanation.layers],
        "contributions": explanation.contributions.tolist(),
        "relevance": explanation.relevance.tolist(),
        "attention": None if explanation.attention is None else explanation.attention.tolist(),
        "candidates": [
            {"text": one.text, "log_probability": one.log_probability} for one in explanation.candidates
        ],
        "blind": explanation.blind,
    }
