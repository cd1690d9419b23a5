"""The command `explain`: an answer about a file as a page that shows where it comes from."""

from __future__ import annotations

import argparse
from pathlib import Path

from epalm.cli.describe import load_model
from epalm.cli.terminal import OK, say
from epalm.errors import EPALMError
from epalm.explain.page import as_page
from epalm.model import Request


def run_explain(args: argparse.Namespace) -> int:
    request = Request(args.file, args.question)
    model = load_model(args)
    explanation = model.explain(request, args.beams, args.max_new_tokens)
    out: Path = args.out or Path(Path(args.file).name + ".html")
    try:
        out.write_text(
            as_page(explanation, Path(args.file).name), encoding="utf-8", errors="backslashreplace"
        )
    except OSError as error:
        raise EPALMError(f"{out} cannot be written ({error.strerror or error}).") from error
    print(" ".join(explanation.text.split()), flush=True)
    say(f"Wrote {out}.")
    return OK
