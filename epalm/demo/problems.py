"""What went wrong: a code for programs, a title and a sentence for people."""

from __future__ import annotations

import gc
import html
from pathlib import Path

import gradio as gr
import torch

from epalm.demo import logs
from epalm.errors import EPALMError

TITLES = {
    "no-file": "There is no file yet",
    "bad-file": "This file cannot be used",
    "file-too-large": "This file is too large",
    "bad-question": "This question cannot be used",
    "bad-setting": "This setting cannot be used",
    "bad-model": "This model cannot be used",
    "bad-request": "This request cannot be read",
    "busy": "Too many people are waiting",
    "too-many-requests": "Too many requests",
    "out-of-memory": "The memory is full",
    "too-slow": "This took too long",
    "closing": "The server is closing",
    "internal": "That did not work",
}
FULL = (
    "There was too little memory for this request, and it was freed again: "
    "try a smaller file, fewer beams or a shorter text."
)
UNEXPECTED = "Something went wrong here, and the next try may work; the server's log says more."


class Refusal(EPALMError):
    """A request that is refused, with one of the codes of TITLES."""

    def __init__(self, code: str, sentence: str):
        super().__init__(sentence)
        self.code = code


def explained(error: Exception, path: Path | None = None) -> tuple[str, str]:
    """(code, sentence) of a problem with a file; the sentence is HTML, which page and API clients render.

    The server's log tells the rest of an unexpected one. Memory that ran out is given back.
    """
    if isinstance(error, Refusal):
        code, sentence = error.code, str(error)
    elif isinstance(error, EPALMError):
        code, sentence = "bad-file", str(error)
    elif out_of_memory(error):
        code, sentence = "out-of-memory", FULL
        error.__traceback__ = None  # its frames hold the tensors
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        logs.event("out of memory", level="warning")
    else:
        logs.exception(error, secrets=[] if path is None else [str(path), path.name])
        return "internal", UNEXPECTED
    if path is not None:
        sentence = sentence.replace(str(path), path.name)
    sentence = sentence.encode(errors="replace").decode()  # half of a character could not be sent
    return code, html.escape(sentence, quote=False)


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on a GPU or on the CPU, where PyTorch raises a plain RuntimeError."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def shown(code: str, sentence: str) -> gr.Error:
    """The error as Gradio sends it: API clients find the code in brackets at the end of the title."""
    return gr.Error(sentence, duration=15, title=f"{TITLES[code]} [{code}]", print_exception=False)
