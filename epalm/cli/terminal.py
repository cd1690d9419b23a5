"""What all commands share with a terminal: exit codes, messages, and which problems get one sentence."""

from __future__ import annotations

import sys

from epalm.errors import EPALMError

OK, MISMATCH, REFUSED, INTERRUPTED = 0, 1, 2, 130


def say(message: str) -> None:
    """Print a message for a person: results go to stdout, all else to stderr."""
    print(message, file=sys.stderr, flush=True)


def sentence(error: BaseException) -> str | None:
    """What to tell a person about a foreseeable problem; None for an error of the program."""
    if isinstance(error, EPALMError):
        return str(error)
    torch = sys.modules.get("torch")  # nothing has run out of a device's memory before it was imported
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return "The device has too little free memory; try --dtype float16, --device cpu or a smaller model."
    return None


def quiet_libraries() -> None:
    """Hide the libraries' own log lines and progress bars; downloads keep their bars on a terminal."""
    import huggingface_hub.utils
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    huggingface_hub.utils.logging.set_verbosity_error()  # retries; what fails in the end is reported
    if not sys.stderr.isatty():
        huggingface_hub.utils.disable_progress_bars()
