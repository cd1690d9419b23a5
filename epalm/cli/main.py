"""The command line: caption, ask and explain, list and convert published models, verify an installation.

    python -m epalm caption photo.jpg film.mp4 song.mp3
    python -m epalm caption holiday --out captions.jsonl
    python -m epalm ask photo.jpg "what is this?"
    python -m epalm explain photo.jpg --out why.html
    python -m epalm models
    python -m epalm convert checkpoint_best.pth my-adapter --preset vqa-opt-2.7b
    python -m epalm verify tests/golden/image_prenorm_a

Results go to stdout, progress and errors to stderr. Exit codes: 0 done, 1 a recorded case does not match,
2 something was wrong with what was asked for (one sentence says what), 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from epalm.cli.options import DTYPES, add_model_options, add_search_options, device, positive
from epalm.cli.terminal import INTERRUPTED, OK, REFUSED, quiet_libraries, say, sentence
from epalm.errors import EPALMError
from epalm.startup import importing

PROGRAM = "epalm" if Path(sys.argv[0]).stem == "epalm" else "python -m epalm"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; argparse ends with 2 on arguments that make no sense."""
    try:
        args = make_parser().parse_args(argv)
        quiet_libraries()
        if isinstance(sys.stdout, TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # so that any file name can be printed
        refuse_missing(args)
        return args.run(args)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # the reader of a pipe (`| head`) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except Exception as error:
        said = sentence(error)
        if said is None:
            raise
        say(f"epalm: {said}")
        return REFUSED


def refuse_missing(args: argparse.Namespace) -> None:
    """Say that no file is there before seconds are spent on importing what would read it."""
    paths = args.files if "files" in args else [args.file] if "file" in args else []
    if paths and not any(map(os.path.lexists, paths)):
        raise EPALMError("\n".join(f"{path} does not exist." for path in paths))


def command_at(place: str) -> Callable[[argparse.Namespace], int]:
    """The function "module:name" of this package, imported now: most commands bring PyTorch."""
    module, name = place.split(":")
    with importing():
        return getattr(import_module(f"epalm.cli.{module}"), name)


class Version(argparse.Action):
    """`--version`: what a bug report needs, in one line."""

    def __init__(self, **options: Any):
        super().__init__(**options, nargs=0)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        import platform
        from importlib.metadata import version

        from epalm import __version__

        parts = [f"epalm {__version__}", f"Python {platform.python_version()}"]
        parts += [f"{name} {version(name)}" for name in ("torch", "transformers", "timm")]
        print(*parts, platform.platform(), sep=" · ")
        parser.exit()


def make_parser() -> argparse.ArgumentParser:
    style = argparse.RawDescriptionHelpFormatter  # keeps the line breaks of examples
    parser = argparse.ArgumentParser(prog=PROGRAM, description=__doc__, formatter_class=style)
    parser.add_argument("--version", action=Version, help="versions of this package and of what it stands on")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, run: str, summary: str, examples: str) -> argparse.ArgumentParser:
        epilog = "examples:\n" + "".join(f"  {PROGRAM} {line.strip()}\n" for line in examples.splitlines())
        added = commands.add_parser(
            name, help=summary, description=summary, epilog=epilog, formatter_class=style
        )
        added.set_defaults(run=lambda args: command_at(run)(args))
        return added

    caption = command(
        "caption",
        "describe:run_caption",
        "Describe pictures, videos and sounds, one line each.",
        """caption photo.jpg film.mp4 song.mp3
        caption holiday --out captions.jsonl
        caption --beams 3 --json *.jpg
        caption --model coco-caption-opt-2.7b photo.jpg""",
    )
    ask = command(
        "ask",
        "describe:run_ask",
        "Ask one question about one or more pictures, videos and sounds.",
        """ask photo.jpg "what is this?"
        ask holiday "what is this?" --out answers.jsonl
        ask --json *.jpg "is this an animal?" """,
    )
    for added in (caption, ask):
        added.add_argument(
            "files",
            nargs="+",
            metavar="PATH",
            help="a picture, a video, a sound, or a folder, searched through all levels",
        )
        add_model_options(added)
        add_search_options(added)
        added.add_argument(
            "--json",
            action="store_true",
            help="a JSON object per line: file, adapter, task, text, log_probability, confidence, seconds",
        )
        added.add_argument(
            "--out",
            type=Path,
            metavar="FILE.jsonl",
            help="also append a JSON object per file, with the errors; a rerun goes on where the last one "
            "ended: it tries errors again, and files that changed, and any others if the model, the "
            "question, --beams or --max-new-tokens differ; a folder for several processes, started by "
            "torchrun -m epalm, which share the files",
        )
        added.add_argument(
            "--batch",
            type=positive,
            default=1,
            metavar="N",
            help="files described together, for a GPU; the texts are the same (%(default)s)",
        )
    ask.add_argument("question", metavar="QUESTION", help="the last argument, in quotes")

    explainer = command(
        "explain",
        "explain:run_explain",
        "Describe a file, or answer a question about it, and write a page that shows why.",
        """explain photo.jpg --out why.html
        explain photo.jpg "what is this?" """,
    )
    explainer.add_argument("file", metavar="PATH", help="a picture, a video or a sound")
    explainer.add_argument(
        "question", nargs="?", metavar="QUESTION", help="ask this instead of describing the file; in quotes"
    )
    add_model_options(explainer)
    add_search_options(explainer)
    explainer.add_argument(
        "--out", type=Path, metavar="PAGE.html", help="where to write (here, photo.jpg.html for photo.jpg)"
    )

    merger = command(
        "merge",
        "parts:run_merge",
        "Put the parts that several processes wrote together in one file.",
        "merge captions captions.jsonl",
    )
    merger.add_argument("folder", type=Path, metavar="DIR", help="that --out named")
    merger.add_argument("out", type=Path, metavar="FILE.jsonl", help="file to write")

    models = command(
        "models", "models:run_models", "List the models that can be named.", "models\nmodels --json"
    )
    models.add_argument("--json", action="store_true", help="a JSON object per line, with licences")

    converter = command(
        "convert",
        "checks:run_convert",
        "Turn a checkpoint of the original implementation into an adapter folder.",
        "convert checkpoint_best.pth my-adapter --preset vqa-opt-2.7b",
    )
    converter.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="the original's .pth file")
    converter.add_argument("out", type=Path, metavar="OUT", help="folder to write")
    converter.add_argument("--preset", required=True, metavar="NAME", help="the published model that it is")

    verifier = command(
        "verify",
        "checks:run_verify",
        "Compare this installation with recorded runs; exit code 1 on a mismatch.",
        """verify tests/golden/*_a
        verify --device cuda --dtype bfloat16 --verbose tests/golden/image_prenorm_a""",
    )
    verifier.add_argument("cases", nargs="+", type=Path, metavar="CASE_DIR", help="folder of a recorded case")
    verifier.add_argument("--device", type=device, default="cpu", help="where to compute (cpu)")
    verifier.add_argument(
        "--dtype", choices=[*DTYPES, "float64"], default="float32", help="precision to compute in (float32)"
    )
    verifier.add_argument(
        "--verbose", action="store_true", help="print every check, not only the failed ones"
    )
    return parser
