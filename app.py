"""The demo: a page that describes pictures, videos and sounds and answers questions about them.

    python app.py                               # http://127.0.0.1:7860, the starter model
    python app.py --model coco-caption-opt-2.7b --device cuda --dtype float16
    python app.py --model my-adapter --host 0.0.0.0 --port 8000

Every event is an endpoint of `gradio_client`, too:

    from gradio_client import Client, handle_file
    text, time_taken = Client("http://127.0.0.1:7860").predict(
        handle_file("photo.jpg"), "what is this?", api_name="/ask"
    )

The endpoints of the other tabs are /caption_video, /ask_video, /caption_audio and /ask_audio; /frames and
/spectrogram give what the model perceives.
"""

import argparse
import html
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported

import gradio as gr

from epalm import EPALM, EPALMError, Request
from epalm.cli.describe import licences_of, load_model
from epalm.cli.options import add_model_options
from epalm.cli.terminal import REFUSED, quiet_libraries, say
from epalm.media import previews

try:
    from spaces import GPU as on_gpu  # ZeroGPU lends a GPU for the time of a call
except ImportError:

    def on_gpu(function: Callable) -> Callable:
        return function


EXAMPLES = Path(__file__).parent / "assets" / "examples"
ACCELERATOR: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1}
WAITING = 20  # requests in the queue; further ones are told to come back
PREVIEWS: dict[str, Any] = {"concurrency_id": "preview", "concurrency_limit": 2}  # files are read, no more
UPLOAD = "250mb"  # about a minute of a phone's video; a 50-megapixel photo needs less
KEPT = 3600  # seconds that uploaded files stay on the disk
MOST_BEAMS, MOST_TOKENS = 8, 100

Upload = dict[str, Any] | None  # the page's description of an uploaded file; "path" is where it lies


@dataclass(frozen=True)
class Tab:
    """The words for a modality, and its example files."""

    name: str
    noun: str
    pitch: str
    take: str
    examples: str
    credits: str


TABS = {
    "image": Tab(
        name="Image",
        noun="picture",
        pitch="looks at your pictures",
        take="upload one, take one or choose an example",
        examples="*.jpg",
        credits="Cat: Stéfan van der Walt, CC0 · coffee: Rachel Michetti, CC0 · person: NASA, public "
        "domain · rocket: SpaceX, public domain",
    ),
    "video": Tab(
        name="Video",
        noun="video",
        pitch="watches your videos",
        take="upload one, record one or choose an example",
        examples="*.mp4",
        credits="City: Kivy, CC0 · earth: Gradio, Apache 2.0 · rabbit: © Blender Foundation, "
        "[bigbuckbunny.org](https://www.bigbuckbunny.org), CC BY 3.0",
    ),
    "audio": Tab(
        name="Audio",
        noun="sound",
        pitch="listens to your sounds",
        take="upload one, record one or choose an example",
        examples="*.flac",
        credits="Drums: Snapper4298, CC0 · saxophone: Gradio, Apache 2.0 · till: Zott820, CC0 · voice: Marco "
        "Menardi and Paola Dal Zot, [voip.ammdomus.it](http://www.voip.ammdomus.it), CC BY-SA 3.0",
    ),
}

CSS = """
.gradio-container { max-width: 1080px !important; margin: 0 auto; }
#pitch h1 { font-size: 1.7rem; margin-bottom: .25rem; }
.answer textarea { font-size: 1.15rem; line-height: 1.5; }
#footer { opacity: .8; font-size: .85rem; text-align: center; }
footer .divider { display: none !important; }
.status { min-height: 1.5rem; opacity: .8; font-size: .9rem; }
.note { font-size: .85rem; }
.dark button[role=tab].selected { color: var(--primary-300); }
/* A wide film would widen the page of a phone. */
.film, .frames { contain: inline-size; }
.film video { max-height: 300px; }
/* All but the last button, which clears: trimming would fetch FFmpeg from another server. */
.film .top-panel button:has(~ button) { display: none; }
.frames .grid-wrap { height: auto; min-height: 0; max-height: none; padding: 0; }
.frames .grid-container {
    grid-template: none / repeat(4, minmax(0, 1fr)); grid-auto-rows: auto; gap: .25rem; padding: .25rem;
}
.frames .thumbnail-item { aspect-ratio: auto; }
.frames .caption-label { inset: auto 0 0 auto; padding: 0 .25rem; font-size: .75rem; }
"""


def page(model: EPALM, licences: str) -> gr.Blocks:
    """The whole page for one loaded model, with a tab for each modality that it has adapters for."""
    found = {adapter.config.task.modality for adapter in model.adapters.values()}
    tabs = {modality: tab for modality, tab in TABS.items() if modality in found}
    with gr.Blocks(title="eP-ALM", analytics_enabled=False, delete_cache=(KEPT // 4, KEPT)) as blocks:
        gr.Markdown(
            "# eP-ALM\nA language model that was only ever trained on text "
            f"{listed([tab.pitch for tab in tabs.values()])}, "
            "through one linear connection and one soft prompt.",
            elem_id="pitch",
        )
        with gr.Tabs():
            for modality, tab in tabs.items():
                with gr.Tab(tab.name):
                    media_tab(model, modality)
        gr.Markdown(about(model, [tab.noun for tab in tabs.values()], licences))
        gr.Markdown(
            "eP-ALM · code under the MIT licence · [paper](https://arxiv.org/abs/2303.11403) · "
            "files that you upload or record stay on the machine that runs this page, for about an hour",
            elem_id="footer",
        )
    return blocks


def player(modality: str) -> gr.components.Component:
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


def perceived(modality: str) -> gr.components.Component | None:
    """What the model sees or hears of the file; nothing for images, which it sees whole."""
    if modality == "video":
        return gr.Gallery(
            show_label=False,
            columns=4,
            allow_preview=False,
            buttons=[],
            interactive=False,
            visible=False,
            elem_classes="frames",
        )
    if modality == "audio":
        return gr.Image(show_label=False, buttons=["fullscreen"], interactive=False, visible=False)
    return None


def media_tab(model: EPALM, modality: str) -> None:
    """One tab: the media on the left, what to do with it and the text on the right."""
    tab = TABS[modality]
    tasks = {
        a.config.task.name: a.config for a in model.adapters.values() if a.config.task.modality == modality
    }
    endpoint = "" if modality == "image" else f"_{modality}"
    beams_default = next(iter(tasks.values())).generation.num_beams
    captions = "caption" in tasks
    with gr.Row():
        with gr.Column():
            media = player(modality)
            note = gr.Markdown(elem_classes="note", visible=modality != "image")
            preview = perceived(modality)
            gr.Examples(
                [[str(path)] for path in sorted(EXAMPLES.glob(tab.examples))],
                media,
                cache_examples=False,
                label="Or try one of these",
            )
            gr.Markdown(tab.credits, elem_classes="note")
        with gr.Column():
            modes = [label for label, task in (("Caption", "caption"), ("Question", "qa")) if task in tasks]
            mode = gr.Radio(modes, value=modes[0], label="What should it do?", visible=len(modes) > 1)
            question = gr.Textbox(
                label="Your question",
                placeholder="what is this?",
                max_lines=3,
                visible=not captions,
            )
            with gr.Row():
                describe = gr.Button("Describe it", variant="primary", min_width=120, visible=captions)
                ask = gr.Button("Ask", variant="primary", min_width=120, visible=not captions)
                stop = gr.Button("Stop", variant="stop", min_width=120)
            answer = gr.Textbox(
                label="Answer", lines=3, buttons=["copy"], interactive=False, elem_classes="answer"
            )
            status = gr.Markdown(elem_classes="status")
            with gr.Accordion("Search settings", open=False):
                beams = gr.Slider(
                    1, MOST_BEAMS, value=beams_default, step=1, label="Beams",
                    info="With one, words appear one by one; with several, the text is shown when final.",
                )  # fmt: skip
                length = gr.Slider(
                    0, MOST_TOKENS, value=0, step=1, label="Longest text, in tokens",
                    info="A token is a word or a part of one. 0 leaves it to the model.",
                )  # fmt: skip

    def of_mode(chosen: str) -> list[dict]:
        asks = chosen == "Question"
        return [gr.update(visible=asks), gr.update(visible=asks), gr.update(visible=not asks)]

    shown = [question, ask, describe]
    mode.change(of_mode, mode, shown, queue=False, show_progress="hidden", api_visibility="private")

    @on_gpu
    def caption(
        media: Upload, beams: int = beams_default, max_new_tokens: int = 0
    ) -> Iterator[tuple[str, str]]:
        yield from answers(model, modality, media, None, beams, max_new_tokens)

    @on_gpu
    def answer_question(
        media: Upload, question: str, beams: int = beams_default, max_new_tokens: int = 0
    ) -> Iterator[tuple[str, str]]:
        yield from answers(model, modality, media, question, beams, max_new_tokens)

    def show(media: Upload, mode: str = modes[0]) -> tuple[dict, str]:
        return shown_of(model, modality, media, mode)

    # The library's preprocessing would open the file, and fail on one that is no image without a sentence.
    # Without it the file is still checked to be an upload, and the numbers are checked in `answers`.
    shared: dict[str, Any] = {
        "preprocess": False,
        "outputs": [answer, status],
        "show_progress": "minimal",
        "show_progress_on": answer,
    }
    shared |= ACCELERATOR
    streams = "; streams (text so far, time taken)."
    runs = []
    if captions:
        runs.append(
            describe.click(
                caption,
                [media, beams, length],
                api_name=f"caption{endpoint}",
                api_description=f"Describe a {tab.noun}{streams}",
                **shared,
            )
        )
    if "qa" in tasks:
        runs.append(
            gr.on(
                [ask.click, question.submit],
                answer_question,
                [media, question, beams, length],
                api_name=f"ask{endpoint}",
                api_description=f"Answer a question about a {tab.noun}{streams}",
                **shared,
            )
        )
    if preview is not None:
        gr.on(
            [media.change, mode.change, describe.click, ask.click, question.submit],
            show,
            [media, mode],
            [preview, note],
            preprocess=False,
            trigger_mode="always_last",
            show_progress="hidden",
            api_name="frames" if modality == "video" else "spectrogram",
            api_description=f"What the model perceives of a {tab.noun}, and a sentence about it.",
            **PREVIEWS,
        )
    stop.click(lambda: "Stopped.", None, status, cancels=runs, queue=False, api_visibility="private")


def answers(
    model: EPALM, modality: str, upload: Upload, question: str | None, beams: int, max_new_tokens: int
) -> Iterator[tuple[str, str]]:
    """(text so far, time taken once it is final); every problem becomes one sentence in the page."""
    started = time.perf_counter()
    text, path = "", Path()
    try:
        if upload is None:
            tab = TABS[modality]
            raise EPALMError(f"There is no {tab.noun} yet: {tab.take}.")
        if not (1 <= beams <= MOST_BEAMS and 0 <= max_new_tokens <= MOST_TOKENS):
            raise EPALMError(
                f"Beams go from 1 to {MOST_BEAMS}, the longest text from 0 to {MOST_TOKENS} tokens."
            )
        yield "", ""
        path = Path(upload["path"])
        request = Request(path, question, adapter_of(model, modality, question is not None))
        for text in model.stream(request, int(beams), int(max_new_tokens) or None):
            yield text, ""
        yield text, f"Took {time.perf_counter() - started:.1f} seconds."
    except Exception as error:
        raise gr.Error(
            explained(error, path), duration=15, title="That did not work", print_exception=False
        ) from error


def shown_of(model: EPALM, modality: str, upload: Upload, mode: str) -> tuple[dict, str]:
    """What the model perceives of a file, hidden where there is nothing, and a sentence; never an error."""
    if upload is None:
        return gr.update(value=None, visible=False), ""
    path = Path(upload["path"])
    try:
        recipe = model.recipes[adapter_of(model, modality, mode == "Question")]
        shown, sentence = (previews.look if modality == "video" else previews.listen)(recipe, path)
        return gr.update(value=shown, visible=True), sentence
    except Exception as error:
        return gr.update(value=None, visible=False), explained(error, path)


def adapter_of(model: EPALM, modality: str, asks: bool) -> str:
    return model.adapter_for(modality, "qa" if asks else "caption")


def explained(error: Exception, path: Path) -> str:
    """One sentence about a problem with a file, as HTML, which is what the page and API clients render.

    Of an unexpected one, the server's log tells the rest.
    """
    if isinstance(error, EPALMError):
        return html.escape(str(error).replace(str(path), path.name), quote=False)
    traceback.print_exception(error)
    return "Something went wrong here, and the next try may work; the server's log says more."


def about(model: EPALM, nouns: list[str], licences: str) -> str:
    """What the model is, what it is not, and the licences of its parts."""
    configs = [adapter.config for adapter in model.adapters.values()]
    backbones = [configs[0].lm.id, *(config.encoder.id for config in configs)]
    names = list(dict.fromkeys(backbone.split("/")[-1] for backbone in backbones))  # each once
    parts = {
        id(p): p for m in (model.lm, *model.encoders.values()) for p in m.parameters()
    }  # some are shared
    frozen = sum(p.numel() for p in parts.values())
    trained = sum(p.numel() for p in model.adapters.parameters())
    return (
        f"**What it is:** {listed(names)}, {'both' if len(names) == 2 else 'all'} frozen "
        f"({frozen / 1e6:,.0f} million numbers), joined by {trained / 1e6:.1f} million trained ones. "
        f"**What it is not:** reliable. It names the main thing in some {listed([f'{n}s' for n in nouns])} "
        "and is often wrong; it does not read text, count or recognise people"
        f"{', and it does not understand speech' if 'sound' in nouns else ''}. "
        "Do not rely on it where a mistake matters.\n\n"
        f"**Licences:** {licences}"
    )


def listed(words: Sequence[str]) -> str:
    """Words as in "a, b and c"."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def theme() -> gr.themes.Base:
    """Shades of enough contrast (4.5), and the machine's own fonts, so that no other server is asked."""
    look = gr.themes.Soft(
        primary_hue="teal",
        secondary_hue="teal",
        neutral_hue="slate",
        font=["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"],
        font_mono=["ui-monospace", "Consolas", "monospace"],
    )
    return look.set(
        background_fill_primary="*neutral_50",  # `set` forgets this one of Soft's
        color_accent="*primary_700",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_hover_dark="*primary_600",
        checkbox_label_background_fill_selected="*primary_700",
        checkbox_label_background_fill_selected_dark="*primary_700",
        block_label_text_color="*primary_800",
        block_title_text_color="*primary_800",
        block_label_background_fill="*primary_50",
        block_title_background_fill="transparent",
        block_title_background_fill_dark="transparent",
        block_info_text_color="*neutral_600",
        link_text_color="*primary_700",
        link_text_color_dark="*primary_300",
    )


def launch(blocks: gr.Blocks, host: str, port: int | None, **options: Any) -> str:
    """Serve the page; returns its address. EPALMError if the port is taken."""
    blocks.queue(max_size=WAITING)
    try:
        _, url, _ = blocks.launch(
            server_name=host,
            server_port=port,
            theme=theme(),
            css=CSS,
            max_file_size=UPLOAD,
            footer_links=["api"],
            ssr_mode=False,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            **options,
        )
    except OSError as error:
        raise EPALMError(
            f"Port {port} on {host} cannot be used, so choose another one with --port ({error})."
        ) from None
    return url


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_model_options(parser)
    # Spaces and containers say through these variables where to listen.
    parser.add_argument("--host", default=os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"))
    parser.add_argument("--port", type=int, default=int(os.environ.get("GRADIO_SERVER_PORT", "7860")))
    args = parser.parse_args(argv)
    quiet_libraries()
    try:
        model = load_model(args)
        blocks = page(model, licences_of(model, args))
        say(f"Open {launch(blocks, args.host, args.port)} in a browser; Ctrl-C ends it.")
        blocks.block_thread()
    except EPALMError as error:
        say(str(error))
        return REFUSED
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
