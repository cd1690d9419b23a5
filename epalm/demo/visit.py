"""The panel with the answers of this visit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from epalm.demo import history
from epalm.demo.handlers import Handlers
from epalm.demo.media_tab import PREVIEWS, PRIVATE, MediaTab
from epalm.demo.problems import shown

# A file that the page makes itself: nothing of it lies on the server.
DOWNLOAD = """text => {
    const link = document.createElement('a');
    link.href = URL.createObjectURL(new Blob([text], {type: 'TYPE'}));
    link.download = 'NAME';
    link.click();
    URL.revokeObjectURL(link.href);
}"""

EMPTY = "What you ask appears here, to be asked again or downloaded."
CHOOSE = "Choose an answer to see it and ask it again."


class Visit:
    """The panel, and what it does once it is connected to the tabs."""

    def __init__(self, handlers: Handlers):
        self.handlers = handlers
        self.entries = gr.State([], time_to_live=handlers.service.kept)
        with gr.Accordion("This visit", open=False, elem_id="visit"):
            self.hint = gr.Markdown(EMPTY, elem_classes="note")
            self.gallery = gr.Gallery(
                label="Answers of this visit",
                show_label=False,
                columns=5,
                allow_preview=False,
                buttons=[],
                interactive=False,
                visible=False,
                elem_classes="history",
            )
            with gr.Row(visible=False) as self.actions:
                as_json = gr.Button("Download as JSON", size="sm", min_width=140)
                as_csv = gr.Button("Download as CSV", size="sm", min_width=140)
                delete = gr.Button("Delete my files and answers", size="sm", variant="stop", min_width=140)
            self.status = gr.Markdown(elem_classes="status")
        text = gr.Textbox(visible=False)
        for button, make, name, kind in (
            (as_json, history.as_json, "answers.json", "application/json"),
            (as_csv, history.as_csv, "answers.csv", "text/csv"),
        ):
            save = DOWNLOAD.replace("NAME", name).replace("TYPE", kind)
            made = button.click(make, self.entries, text, queue=False, api_visibility="private")
            made.then(None, text, None, js=save)
        self.delete = delete

    def remember(self, tab: MediaTab) -> None:
        """Put the answers of a tab into the history."""

        def picture(item: history.Entry | None, request: gr.Request) -> history.Entry | None:
            return self.handlers.pictured(item, request)

        def add(entries: list[history.Entry], item: history.Entry | None) -> tuple[Any, ...]:
            return self._shown(entries if item is None else [item, *entries][: history.MOST])

        for run in tab.runs:
            made = gr.State(None, time_to_live=self.handlers.service.kept)
            pictured = run.success(picture, tab.result, made, show_progress="hidden", **PRIVATE, **PREVIEWS)
            # Two at once would read the same entries, and one would overwrite what the other adds.
            pictured.success(
                add,
                [self.entries, made],
                [self.entries, self.gallery, self.hint, self.actions],
                show_progress="hidden",
                concurrency_id="history",
                concurrency_limit=1,
                **PRIVATE,
            )

    def _shown(self, entries: list[history.Entry]) -> tuple[Any, ...]:
        pictures = [(item["thumbnail"], history.title(item)) for item in entries]
        some = bool(entries)
        says = CHOOSE if some else EMPTY
        return entries, gr.update(value=pictures, visible=some), says, gr.update(visible=some)

    def connect(self, tabs: Sequence[MediaTab], chosen: gr.Tabs, model: gr.Dropdown, again: gr.State) -> None:
        """Collect the answers of all tabs; let a click ask one again in its tab, and a button delete all."""
        for tab in tabs:
            self.remember(tab)

        def replay(entries: list[history.Entry], last: tuple[str, int], event: gr.SelectData) -> list[Any]:
            if event.index >= len(entries):  # the page was open for longer than they are kept
                raise shown("no-file", "These answers are no longer here.")
            item = entries[event.index]
            values = [gr.Tabs(selected=item["modality"]), item["model"], (item["modality"], last[1] + 1)]
            for tab in tabs:
                if tab.modality != item["modality"]:
                    values += [gr.skip()] * len(tab.replayed)
                    continue
                mode = "Caption" if item["question"] is None else "Question"
                values += [item["path"], mode, item["question"] or ""]
                values += [item["beams"], item["max_new_tokens"] or 0, item["answer"], ""]
            return values

        self.gallery.select(
            replay,
            [self.entries, again],
            [chosen, model, again, *(part for tab in tabs for part in tab.replayed)],
            show_progress="hidden",
            api_visibility="private",
        )

        def delete(request: gr.Request) -> list[Any]:
            says = self.handlers.delete_uploads(request)
            cleared = [None for _ in tabs for _ in range(3)]
            return [*self._shown([]), says, *cleared]

        cleared = [part for tab in tabs for part in (tab.media, tab.answer, tab.status)]
        self.delete.click(
            delete,
            None,
            [self.entries, self.gallery, self.hint, self.actions, self.status, *cleared],
            queue=False,
            api_name="delete_uploads",
            api_visibility="private",
        )
