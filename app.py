"""The demo: a page that describes a picture and answers questions about it.

    python app.py                               # http://127.0.0.1:7860, the starter model
    python app.py --model coco-caption-opt-2.7b --device cuda --dtype float16
    python app.py --model my-adapter --host 0.0.0.0 --port 8000

Every event is an endpoint of `gradio_client`, too:

    from gradio_client import Client, handle_file
    text, time_taken = Client("http://127.0.0.1:7860").predict(
        handle_file("photo.jpg"), "what is this?", api_name="/ask"
    )
"""

import argparse
import html
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported

import gradio as gr

from epalm import EPALM, EPALMError, Request
from epalm.cli import REFUSED, add_model_options, licences_of, load_model, quiet_libraries, say, sentence

try:
    from spaces import GPU as on_gpu  # ZeroGPU lends a GPU for the time of a call
except ImportError:

    def on_gpu(function: Callable) -> Callable:
        return function


EXAMPLES = Path(__file__).parent / "assets" / "examples"
ACCELERATOR: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1}
WAITING = 20  # requests in the queue; further ones are told to come back
UPLOAD = "64mb"  # a 50-megapixel photo passes
KEPT = 3600  # seconds that uploaded files stay on the disk
MOST_BEAMS, MOST_TOKENS = 8, 100

Upload = dict[str, Any] | None  # the page's description of an uploaded file; "path" is where it lies

CSS = """
.gradio-container { max-width: 1080px !important; margin: 0 auto; }
#pitch h1 { font-size: 1.7rem; margin-bottom: .25rem; }
#answer textarea { font-size: 1.15rem; line-height: 1.5; }
#footer { opacity: .8; font-size: .85rem; text-align: center; }
footer .divider { display: none !important; }
.status { min-height: 1.5rem; opacity: .8; font-size: .9rem; }
"""


def page(model: EPALM, licences: str) -> gr.Blocks:
    """The whole page for one loaded model; each modality is one tab. EPALMError if there is none to show."""
    found = {adapter.config.task.modality for adapter in model.adapters.values()}
    if "image" not in found:
        raise EPALMError(
            f"The page shows pictures, but this model is for {' and '.join(sorted(found))}; "
            "use it with `python -m epalm`."
        )
    with gr.Blocks(title="eP-ALM", analytics_enabled=False, delete_cache=(KEPT // 4, KEPT)) as blocks:
        gr.Markdown(
            "# eP-ALM\nA language model that was only ever trained on text looks at your picture, "
            "through one linear connection and one soft prompt.",
            elem_id="pitch",
        )
        with gr.Tabs(), gr.Tab("Image"):
            picture = gr.Image(
                label="Picture",
                type="filepath",
                sources=["upload", "webcam", "clipboard"],
                height=340,
                buttons=["fullscreen"],
                render=False,
            )
            media_tab(model, "image", picture, sorted(EXAMPLES.glob("*.jpg")))
        gr.Markdown(about(model, licences))
        gr.Markdown(
            "eP-ALM · code under the MIT licence · [paper](https://arxiv.org/abs/2303.11403) · "
            "pictures that you upload stay on the machine that runs this page, for about an hour",
            elem_id="footer",
        )
    return blocks


def media_tab(model: EPALM, modality: str, media: gr.components.Component, examples: list[Path]) -> None:
    """One tab: the media on the left, what to do with it and the text on the right."""
    tasks = {
        a.config.task.name: a.config for a in model.adapters.values() if a.config.task.modality == modality
    }
    endpoint = "" if modality == "image" else f"_{modality}"
    beams_default = next(iter(tasks.values())).generation.num_beams
    captions = "caption" in tasks
    with gr.Row():
        with gr.Column():
            media.render()
            if examples:
                gr.Examples(
                    [[str(path)] for path in examples],
                    media,
                    cache_examples=False,
                    label="Or try one of these",
                )
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
                label="Answer", lines=3, buttons=["copy"], interactive=False, elem_id="answer"
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
        image: Upload, beams: int = beams_default, max_new_tokens: int = 0
    ) -> Iterator[tuple[str, str]]:
        """Describe a picture; streams (text so far, time taken)."""
        yield from answers(model, modality, image, None, beams, max_new_tokens)

    @on_gpu
    def answer_question(
        image: Upload, question: str, beams: int = beams_default, max_new_tokens: int = 0
    ) -> Iterator[tuple[str, str]]:
        """Answer a question about a picture; streams (text so far, time taken)."""
        yield from answers(model, modality, image, question, beams, max_new_tokens)

    # The library's preprocessing would open the file, and fail on one that is no image without a sentence.
    # Without it the file is still checked to be an upload, and the numbers are checked in `answers`.
    shared: dict[str, Any] = {
        "preprocess": False,
        "outputs": [answer, status],
        "show_progress": "minimal",
        "show_progress_on": answer,
    }
    shared |= ACCELERATOR
    runs = []
    if captions:
        runs.append(describe.click(caption, [media, beams, length], api_name=f"caption{endpoint}", **shared))
    if "qa" in tasks:
        inputs = [media, question, beams, length]
        runs.append(
            gr.on([ask.click, question.submit], answer_question, inputs, api_name=f"ask{endpoint}", **shared)
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
            raise EPALMError("There is no picture yet: upload one, take one or choose an example.")
        if not (1 <= beams <= MOST_BEAMS and 0 <= max_new_tokens <= MOST_TOKENS):
            raise EPALMError(
                f"Beams go from 1 to {MOST_BEAMS}, the longest text from 0 to {MOST_TOKENS} tokens."
            )
        yield "", ""
        path = Path(upload["path"])
        adapter = model.adapter_for(modality, "caption" if question is None else "qa")
        request = Request(path, question, adapter)
        for text in model.stream(request, int(beams), int(max_new_tokens) or None):
            yield text, ""
        yield text, f"Took {time.perf_counter() - started:.1f} seconds."
    except EPALMError as error:
        raise problem(str(error).replace(str(path), path.name)) from None
    except Exception as error:
        traceback.print_exc()
        raise problem(
            "Something went wrong here, and the next try may work; the server's log says more."
        ) from error


def problem(message: str) -> gr.Error:
    """A sentence for the page, which renders it as HTML, and for API clients."""
    return gr.Error(
        html.escape(message, quote=False), duration=15, title="That did not work", print_exception=False
    )


def about(model: EPALM, licences: str) -> str:
    """What the model is, what it is not, and the licences of its parts."""
    config = next(iter(model.adapters.values())).config
    trained = sum(p.numel() for p in model.adapters.parameters())
    frozen = sum(p.numel() for m in (model.lm, *model.encoders.values()) for p in m.parameters())
    return (
        f"**What it is:** {config.lm.id.split('/')[-1]} and {config.encoder.id.split('/')[-1]}, both frozen "
        f"({frozen / 1e6:,.0f} million numbers), joined by {trained / 1e6:.1f} million trained ones. "
        "**What it is not:** reliable. It names the main thing in some pictures and is often wrong; it "
        "does not read text, count or recognise people. Do not rely on it where a mistake matters.\n\n"
        f"**Licences:** {licences}"
    )


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
        say(sentence(error))
        return REFUSED
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
