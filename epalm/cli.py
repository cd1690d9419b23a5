"""The command line: caption and ask about files, list and convert published models, verify an installation.

    python -m epalm caption photo.jpg
    python -m epalm ask photo.jpg "what is this?"
    python -m epalm models
    python -m epalm convert checkpoint_best.pth my-adapter --preset vqa-opt-2.7b
    python -m epalm verify tests/golden/image_prenorm_a

Results go to stdout, progress and errors to stderr. Exit codes: 0 done, 1 a recorded case does not match,
2 something was wrong with what was asked for (one sentence says what), 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import huggingface_hub.utils
import torch
import transformers

from epalm.adapter import Adapter
from epalm.backbones import DTYPES
from epalm.convert import convert
from epalm.errors import EPALMError, reason
from epalm.model import EPALM, Request
from epalm.starter import WHEELS
from epalm.verify import Check, verify
from epalm.zoo import ZOO, licence_notice, table

OK, MISMATCH, REFUSED, INTERRUPTED = 0, 1, 2, 130
STARTER_LM, STARTER_ENCODER = "starter/smollm2-135m-instruct", "starter/efficientnet-lite2"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; argparse ends with 2 on arguments that make no sense."""
    args = make_parser().parse_args(argv)
    quiet_libraries()
    try:
        return args.run(args)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # the reader of a pipe (`| head`) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except (EPALMError, torch.OutOfMemoryError) as error:
        say(f"epalm: {sentence(error)}")
        return REFUSED


def make_parser() -> argparse.ArgumentParser:
    style = argparse.RawDescriptionHelpFormatter  # keeps the line breaks of examples
    parser = argparse.ArgumentParser(prog="python -m epalm", description=__doc__, formatter_class=style)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, run: Callable, summary: str, examples: str) -> argparse.ArgumentParser:
        epilog = "examples:\n" + "".join(
            f"  python -m epalm {line.strip()}\n" for line in examples.splitlines()
        )
        added = commands.add_parser(
            name, help=summary, description=summary, epilog=epilog, formatter_class=style
        )
        added.set_defaults(run=run)
        return added

    caption = command(
        "caption",
        run_caption,
        "Describe pictures, one line each.",
        """caption photo.jpg
        caption --beams 3 --json *.jpg
        caption --model coco-caption-opt-2.7b photo.jpg""",
    )
    ask = command(
        "ask",
        run_ask,
        "Ask one question about one or more pictures.",
        """ask photo.jpg "what is this?"
        ask --json *.jpg "is this an animal?" """,
    )
    for added in (caption, ask):
        added.add_argument("files", nargs="+", metavar="FILE", help="a picture")
        add_model_options(added)
        added.add_argument(
            "--beams", type=positive, metavar="N", help="beams of the search (the model's own)"
        )
        added.add_argument(
            "--max-new-tokens", type=positive, metavar="N", help="longest text, in tokens (the model's own)"
        )
        added.add_argument(
            "--json", action="store_true", help="a JSON object per line: file, adapter, task, text, seconds"
        )
    ask.add_argument("question", metavar="QUESTION", help="the last argument, in quotes")

    models = command("models", run_models, "List the models that can be named.", "models\nmodels --json")
    models.add_argument("--json", action="store_true", help="a JSON object per line, with licences")

    converter = command(
        "convert",
        run_convert,
        "Turn a checkpoint of the original implementation into an adapter folder.",
        "convert checkpoint_best.pth my-adapter --preset vqa-opt-2.7b",
    )
    converter.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="the original's .pth file")
    converter.add_argument("out", type=Path, metavar="OUT", help="folder to write")
    converter.add_argument("--preset", required=True, metavar="NAME", help="the published model that it is")

    verifier = command(
        "verify",
        run_verify,
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


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Which model, where and in which precision; the demo takes the same options."""
    parser.add_argument(
        "--model",
        default=os.environ.get("EPALM_MODEL", "starter"),
        metavar="NAME",
        help="starter, a published model, an adapter folder or a hub id (%(default)s)",
    )
    parser.add_argument("--device", type=device, help="cpu, cuda, cuda:1, mps (the best there is)")
    parser.add_argument("--dtype", choices=DTYPES, help="precision (chosen by the device)")
    parser.add_argument(
        "--lm", metavar="ID", help="language model to use instead of the one the adapter names"
    )
    parser.add_argument("--encoder", metavar="ID", help="encoder to use instead of the one the adapter names")


def load_model(args: argparse.Namespace) -> EPALM:
    """The model that the options name; says on stderr what takes time and which licences apply."""
    dtype = DTYPES[args.dtype] if args.dtype else None
    if args.model in ZOO:  # before gigabytes are fetched
        say(licence_notice(ZOO[args.model]))
    model = EPALM.from_pretrained(
        args.model, device=args.device, dtype=dtype, lm=args.lm, encoder=args.encoder, progress=say
    )
    if args.model not in ZOO:
        say(licences_of(model, args))
    return model


def run_caption(args: argparse.Namespace) -> int:
    return describe(args, None)


def run_ask(args: argparse.Namespace) -> int:
    if os.path.isfile(args.question):
        raise EPALMError(
            f"The last argument is the question, but {args.question} is a file; add a question in quotes."
        )
    return describe(args, args.question)


def describe(args: argparse.Namespace, question: str | None) -> int:
    """Caption the files, or answer a question about them, one by one; a bad one does not stop the rest."""
    task = "caption" if question is None else "qa"
    model = load_model(args)
    for text in model.texts.values():
        if text.task.name == task:
            text.input(question)  # refuses a bad question once, not once per file
    code = OK
    for file in args.files:
        started = time.perf_counter()
        try:
            adapter = model.adapter_of(Request(file, question))
            [answer] = model.generate([Request(file, question, adapter)], args.beams, args.max_new_tokens)
        except EPALMError as error:
            say(f"epalm: {error}")
            code = REFUSED
            continue
        seconds = round(time.perf_counter() - started, 3)
        if args.json:
            row = {"file": file, "adapter": adapter, "task": task, "text": answer, "seconds": seconds}
            print(json.dumps(row, ensure_ascii=False), flush=True)
        else:
            line = " ".join(answer.split())
            print(f"{file}: {line}" if len(args.files) > 1 else line, flush=True)
    return code


def run_models(args: argparse.Namespace) -> int:
    if args.json:
        for row in [starter_row(), *table()]:
            print(json.dumps(row, ensure_ascii=False))
        return OK
    head = ("model", "task", "language model", "encoder", "trained", "download", "reported")
    rows = [
        head,
        ("starter", "image caption, qa", "SmolLM2-135M", "EfficientNet-Lite2", "ships", megabytes(), ""),
    ]
    for preset, facts in zip(ZOO.values(), table(), strict=True):
        task = f"{preset.modality} {preset.task}"
        size = facts["trained parameters"], facts["download"]
        rows.append((preset.name, task, preset.lm.title, preset.encoder.title, *size, facts["reported"]))
    widths = [max(len(line[i]) for line in rows) for i in range(len(head))]
    for line in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    print("\nDownload is the adapter's; the backbones come from the model hub on first use:")
    backbones = {b.title: b.id for preset in ZOO.values() for b in (preset.lm, preset.encoder)}
    for title, backbone in backbones.items():
        print(f"  {title:<12}{backbone}")
    print("The starter's backbones come from the Python package index, and no hub is needed.\n\nLicences:")
    notices = [licences(STARTER_LM, STARTER_ENCODER), *(row["licence"] for row in table())]
    for notice in dict.fromkeys(notices):
        print(f"  {notice}")
    return OK


def run_convert(args: argparse.Namespace) -> int:
    try:
        adapter = convert(args.checkpoint, args.out, args.preset)
    except OSError as error:
        raise EPALMError(f"{args.out} cannot be written ({error.strerror or error}).") from error
    numbers = sum(p.numel() for p in adapter.parameters())
    print(f"Wrote {args.out} ({numbers / 1e6:.2f} M numbers); use it with --model {args.out}")
    say(licence_notice(ZOO[args.preset]))
    return OK


def run_verify(args: argparse.Namespace) -> int:
    dtype = DTYPES.get(args.dtype, torch.float64)
    code = OK
    for folder in args.cases:
        try:
            checks = verify(folder, args.device, dtype)
        except EPALMError as error:
            say(f"epalm: {error}")
            code = REFUSED
            continue
        failed = [check for check in checks if check.decides and not check.ok]
        for check in checks if args.verbose else failed:
            print(check_line(check))
        worst = max(checks, key=lambda c: (c.decides, c.badness()))
        verdict = f"{len(failed)} of {len(checks)} checks FAILED" if failed else f"{len(checks)} checks ok"
        undecided = sum(not check.decides for check in checks)
        note = f", {undecided} of them reported only in {args.dtype}" if undecided else ""
        print(
            f"{folder}: {verdict}{note}; closest to its limit: {' '.join(check_line(worst).split())}",
            flush=True,
        )
        if failed and code == OK:
            code = MISMATCH
    return code


def check_line(check: Check) -> str:
    """Name, largest error, tolerance and verdict of one comparison."""
    verdict = "ok" if check.ok else "FAILED" if check.decides else "differs, does not decide"
    return f"  {check.name:<44} max error {check.error:<9.3g} tolerance {check.tolerance:<9.3g} {verdict}"


def starter_row() -> dict[str, str]:
    """The starter in the form of the zoo's table."""
    return {
        "name": "starter",
        "title": "Starter, shipped with this repository",
        "task": "caption, qa",
        "modality": "image",
        "language model": STARTER_LM,
        "encoder": STARTER_ENCODER,
        "trained parameters": "ships",
        "download": megabytes(),
        "reported": "",
        "licence": licences(STARTER_LM, STARTER_ENCODER),
    }


def megabytes() -> str:
    """What the starter fetches on first use."""
    return f"{sum(WHEELS[name].megabytes for name in (STARTER_LM, STARTER_ENCODER))} MB"


def licences(lm: str, encoder: str) -> str:
    """The licence notice to show where a model with these backbones is chosen."""
    for preset in ZOO.values():
        if (preset.lm.id, preset.encoder.id) == (lm, encoder):
            return licence_notice(preset)
    unknown = "a licence to look up at its source"
    ours, theirs = (WHEELS[name].licence if name in WHEELS else unknown for name in (lm, encoder))
    return f"{lm.split('/')[-1]} is under {ours}, {encoder.split('/')[-1]} under {theirs}."


def licences_of(model: EPALM, args: argparse.Namespace) -> str:
    """The licence notice of a loaded model, with the backbones that the options put in place of its own."""
    config = cast(Adapter, next(iter(model.adapters.values()))).config
    return licences(args.lm or config.lm.id, args.encoder or config.encoder.id)


def quiet_libraries() -> None:
    """Keep the libraries' own log lines and bars away; downloads keep their bars where a person watches."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if not sys.stderr.isatty():
        huggingface_hub.utils.disable_progress_bars()


def sentence(error: BaseException) -> str:
    """What to tell a person about a foreseeable problem."""
    if isinstance(error, torch.OutOfMemoryError):
        return "The device has too little free memory; try --dtype float16, --device cpu or a smaller model."
    return str(error)


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def positive(text: str) -> int:
    """An argument that counts something."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def device(name: str) -> str:
    """An argument that names a device of this machine."""
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise argparse.ArgumentTypeError(f"{name!r} cannot be used here ({reason(error)})") from error
    return name
