"""The whole page: which model, a tab for each modality, the answers of this visit, and how programs ask."""

from __future__ import annotations

from typing import Any

import gradio as gr

from epalm.demo import texts
from epalm.demo.explain_panel import explain_endpoint
from epalm.demo.guarded import GuardedBlocks
from epalm.demo.handlers import Handlers
from epalm.demo.media_tab import MODES, media_tab, questions_of
from epalm.demo.models import Offer
from epalm.demo.service import EXAMPLES, Service
from epalm.demo.snippets import snippets
from epalm.demo.visit import Visit
from epalm.media.container import Modality

METHOD = EXAMPLES.parent / "method.svg"
TICK = 0.7  # seconds between looks at how far a model's loading is


def page(service: Service) -> gr.Blocks:
    """The page of a service, with a tab for each modality that its models have adapters for."""
    gr.set_static_paths([EXAMPLES])  # served from where they are: a copy would be purged with the uploads
    handlers = Handlers(service)
    models = service.models
    with GuardedBlocks(title="eP-ALM", analytics_enabled=False) as blocks:
        gr.Markdown(texts.pitch(models.modalities), elem_id="pitch")
        names = [(offer.title, name) for name, offer in models.offers.items()]
        model = gr.Dropdown(
            names, value=models.default, label="Model", visible=len(names) > 1, filterable=len(names) > 8
        )
        loading = gr.HTML(elem_id="loading", visible=False, padding=False)
        again = gr.State(("", 0))
        with gr.Tabs() as chosen:
            tabs = [media_tab(handlers, modality, model, again) for modality in models.modalities]
        Visit(handlers).connect(tabs, chosen, model, again)
        explain_endpoint(handlers, model)
        with gr.Accordion("About this model", open=False):
            card = gr.HTML(texts.card(models.offer(None)), padding=False)
        with gr.Accordion("How it works", open=False):
            gr.Markdown(texts.HOW)
            gr.HTML(METHOD.read_text(encoding="utf-8"), elem_id="method", padding=False)
        with gr.Accordion("Use it from a program", open=False):
            gr.Markdown(snippets(models), elem_id="snippets")
        gr.Markdown(texts.about(models.modalities), elem_classes="note")
        gr.Markdown(
            "eP-ALM · code under the MIT licence · [paper](https://arxiv.org/abs/2303.11403) · "
            "what you upload or record stays on the machine that runs this page, for "
            f"{minutes(service.kept)} at most",
            elem_id="footer",
        )

        def look(name: str) -> tuple[dict, dict]:
            state = models.state(name)
            busy = state is not None and not state.done.is_set()
            says = ""
            if state is not None and busy:
                says = texts.loading(state.says)
            elif state is not None and state.failure is not None:
                says = texts.failed(reason_of(state))
            # Where nothing loads it yet, a request may soon, so the looking goes on.
            return gr.update(value=says, visible=bool(says)), gr.update(active=busy or state is None)

        blocks.unload(handlers.leave)
        timer = gr.Timer(TICK)
        quiet: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
        gr.on([timer.tick, blocks.load], look, model, [loading, timer], **quiet)

        def of_model(name: str) -> list[Any]:
            offer = models.offer(name)
            changed = [texts.card(offer), gr.update(active=True)]
            return changed + [update for tab in tabs for update in tab_updates(offer, tab.modality)]

        if len(names) > 1:
            model.change(
                of_model, model, [card, timer, *(part for tab in tabs for part in tab.of_model)], **quiet
            )
    return blocks


def tab_updates(offer: Offer, modality: Modality) -> list[Any]:
    """What another model changes in a tab, in the order of `MediaTab.of_model`."""
    tasks = offer.tasks(modality)
    if not tasks:
        return [gr.update(visible=False), *[gr.skip()] * 6]
    modes = [label for task, label in MODES.items() if task in tasks]
    asks = "caption" not in tasks
    return [
        gr.update(visible=True),
        gr.update(choices=modes, value=modes[0], visible=len(modes) > 1),
        gr.update(samples=questions_of(offer, modality), visible=asks),
        gr.update(visible=asks),
        gr.update(visible=asks),
        gr.update(visible=not asks),
        gr.update(value=next(iter(tasks.values())).generation.num_beams),
    ]


def reason_of(state: Any) -> str:
    """Why a model could not be loaded."""
    try:
        state.result()
    except Exception as error:
        return str(error)
    return ""


def minutes(seconds: float) -> str:
    """A time in words."""
    return "an hour" if seconds == 3600 else f"{seconds / 60:.0f} minutes"
