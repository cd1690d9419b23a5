"""The demo's options: on the command line, or as environment variables, EPALM_PORT for --port and so on."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from epalm.cli.options import add_model_options, positive

TRUE, FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


def parse(argv: Sequence[str] | None, description: str, environ: Mapping[str, str]) -> argparse.Namespace:
    """The options; those of the command line win over those of the environment."""
    parser = argparse.ArgumentParser(
        description=description,
        epilog="Every option is an environment variable, too: EPALM_ and its name, such as EPALM_PORT=8000.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model_options(parser)
    add = parser.add_argument
    add(
        "--also",
        action="append",
        default=[],
        metavar="MODEL",
        help="offer a further model; may be given again",
    )
    add("--models-in-memory", type=positive, default=1, metavar="N", help="how many stay loaded (1)")
    # Spaces and containers say through these variables where to listen.
    add("--host", default=os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"), help="address to listen on")
    add(
        "--port",
        type=port,
        default=os.environ.get("GRADIO_SERVER_PORT", "7860"),  # a text is checked as an argument is
        help="port to listen on",
    )
    add("--root-path", default="", metavar="PATH", help="where a proxy serves the page, such as /epalm")
    add("--auth", default="", metavar="NAME:PASSWORD", help="ask for a name and a password (HTTP basic)")
    add(
        "--behind-proxy",
        action="store_true",
        help="tell clients apart by the X-Forwarded-For of a proxy in front",
    )
    add("--mcp", action="store_true", help="serve every endpoint as an MCP tool, under /gradio_api/mcp/")
    add(
        "--rate",
        type=count,
        default=0,
        metavar="N",
        help="requests a minute that one client may make (0: no limit)",
    )
    add("--waiting", type=positive, default=100, metavar="N", help="requests that may be on their way (100)")
    add("--max-megabytes", type=positive, default=250, metavar="N", help="largest file (250)")
    add("--max-megapixels", type=positive, default=89, metavar="N", help="largest picture or frame (89)")
    add("--max-seconds", type=positive, default=600, metavar="N", help="longest video or sound (600)")
    add(
        "--max-question",
        type=positive,
        default=1000,
        metavar="N",
        help="longest question, in characters (1000)",
    )
    add(
        "--max-answer-seconds",
        type=positive,
        default=120,
        metavar="N",
        help="longest time for an answer (120)",
    )
    add("--keep-minutes", type=positive, default=60, metavar="N", help="how long uploads are kept (60)")
    add(
        "--uploads",
        type=Path,
        metavar="FOLDER",
        help="where uploads are kept (in the system's temporary folder)",
    )
    add("--closing-seconds", type=count, default=30, metavar="N", help="at the end, wait for what runs (30)")
    add("--logs", choices=("text", "json"), default="text", help="how the log is written, to standard error")
    return parser.parse_args([*from_environment(parser, environ), *(sys.argv[1:] if argv is None else argv)])


def from_environment(parser: argparse.ArgumentParser, environ: Mapping[str, str]) -> list[str]:
    """What the environment says, as arguments, so that it is checked as they are."""
    found: list[str] = []
    for name, default in vars(parser.parse_args([])).items():
        variable = f"EPALM_{name.upper()}"
        if not (value := environ.get(variable, "").strip()):
            continue
        option = f"--{name.replace('_', '-')}"
        if isinstance(default, bool):
            if value.lower() not in TRUE + FALSE:
                parser.error(f"{variable} is {value!r}: it must be 1 or 0")
            found += [option] if value.lower() in TRUE else []
        elif isinstance(default, list):
            found += [f"{option}={part.strip()}" for part in value.split(",") if part.strip()]
        else:
            found.append(f"{option}={value}")
    return found


def count(text: str) -> int:
    """An argument that counts something, or 0 for none."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 on")
    return int(text)


def port(text: str) -> int:
    """An argument that is a port to listen on."""
    if not (text.isdecimal() and 1 <= int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port, which is a number from 1 to 65535")
    return int(text)
