"""The panel that answers one input in two ways, side by side."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from epalm.demo.answering import Settings
from epalm.demo.handlers import RUNS, Handlers, Upload
from epalm.demo.limits import MASKS, MOST_BEAMS
from epalm.media.container import Modality

AS_TRAINED = "as trained"


def compare_panel(handlers: Handlers, modality: Modality, inputs: list[Any]) -> None:
    """A closed panel: another model, mask mode or number of beams beside the tab's own settings.

    Args:
        inputs: the tab's media, mode, question, model, beams and length.
    """
    offers = [
        (offer.title, name)
        for name, offer in handlers.service.models.offers.items()
        if modality in offer.modalities
    ]
    with gr.Accordion("Compare with another setting", open=False):
        with gr.Row():
            model = gr.Dropdown(offers, value=offers[0][1], label="Model", min_width=120)
            mask = gr.Dropdown([AS_TRAINED, *MASKS], value=AS_TRAINED, label="Mask mode", min_width=120)
            beams = gr.Slider(1, MOST_BEAMS, value=3, step=1, label="Beams", min_width=120)
        button = gr.Button("Compare")
        with gr.Row():
            with gr.Column(min_width=140):
                left = gr.Textbox(label="With the settings above", lines=2, interactive=False)
                left_says = gr.Markdown(elem_classes="status")
            with gr.Column(min_width=140):
                right = gr.Textbox(label="With these settings", lines=2, interactive=False)
                right_says = gr.Markdown(elem_classes="status")

    def compare(
        media: Upload,
        mode: str,
        question: str,
        model: str,
        beams: int,
        length: int,
        other: str,
        mask: Any,
        other_beams: int,
        request: gr.Request,
    ) -> Iterator[tuple[str, str, str, str]]:
        changed = Settings(other_beams, length, other, None if mask == AS_TRAINED else mask)
        both = Settings(beams, length, model), changed
        yield from handlers.compare(modality, media, question if mode == "Question" else None, both, request)

    button.click(
        compare,
        [*inputs, model, mask, beams],
        [left, left_says, right, right_says],
        preprocess=False,
        show_progress="minimal",
        show_progress_on=[left, right],
        api_visibility="private",
        **RUNS,
    )
