"""Arguments that several commands and the demo take."""

from __future__ import annotations

import argparse
import os

from epalm.errors import reason

DTYPES = ("float32", "float16", "bfloat16")


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Which model, where and in which precision; the demo takes the same options."""
    parser.add_argument(
        "--model",
        default=os.environ.get("EPALM_MODEL", "starter"),
        metavar="NAME",
        help="starter, a published model, an adapter folder or a hub id (%(default)s)",
    )
    parser.add_argument("--device", type=device, help="cpu, cuda, cuda:1, mps (the best there is)")
    parser.add_argument(
        "--dtype", choices=[*DTYPES, "int8"], help="precision (chosen by the device); int8 is for a CPU"
    )
    parser.add_argument(
        "--lm", metavar="ID", help="language model to use instead of the one the adapter names"
    )
    parser.add_argument("--encoder", metavar="ID", help="encoder to use instead of the one the adapter names")


def add_search_options(parser: argparse.ArgumentParser) -> None:
    """How the text is searched for."""
    parser.add_argument("--beams", type=positive, metavar="N", help="beams of the search (the model's own)")
    parser.add_argument(
        "--max-new-tokens", type=positive, metavar="N", help="longest text, in tokens (the model's own)"
    )


def positive(text: str) -> int:
    """An argument that counts something."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def device(name: str) -> str:
    """An argument that names a device of this machine."""
    import torch

    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise argparse.ArgumentTypeError(f"{name!r} cannot be used here ({reason(error)})") from error
    return name
