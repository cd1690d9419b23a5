"""The command line: caption and ask about files, list and convert published models, verify an installation.

    python -m epalm caption photo.jpg film.mp4 song.mp3
    python -m epalm caption holiday --out captions.jsonl
    python -m epalm ask photo.jpg "what is this?"
    python -m epalm models
    python -m epalm convert checkpoint_best.pth my-adapter --preset vqa-opt-2.7b
    python -m epalm verify tests/golden/image_prenorm_a

Results go to stdout, progress and errors to stderr. Exit codes: 0 done, 1 a recorded case does not match,
2 something was wrong with what was asked for (one sentence says what), 130 interrupted.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from io import TextIOWrapper
from pathlib import Path
from typing import Any, cast

import huggingface_hub.utils
import torch
import transformers

from epalm.adapter import CONFIG, Adapter
from epalm.cli.batch import Progress, Run, find_files
from epalm.cli.results import Results, json_line
from epalm.config import AdapterConfig
from epalm.errors import EPALMError, reason
from epalm.hub.checkpoints import convert
from epalm.hub.wheels import WHEELS
from epalm.hub.zoo import ZOO, licence_notice, table
from epalm.language_model import DTYPES
from epalm.model import EPALM, STARTER, adapter_folders
from epalm.verify import Check, verify

OK, MISMATCH, REFUSED, INTERRUPTED = 0, 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; argparse ends with 2 on arguments that make no sense."""
    args = make_parser().parse_args(argv)
    quiet_libraries()
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # so that any file name can be printed
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
        "Describe pictures, videos and sounds, one line each.",
        """caption photo.jpg film.mp4 song.mp3
        caption holiday --out captions.jsonl
        caption --beams 3 --json *.jpg
        caption --model coco-caption-opt-2.7b photo.jpg""",
    )
    ask = command(
        "ask",
        run_ask,
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
        added.add_argument(
            "--beams", type=positive, metavar="N", help="beams of the search (the model's own)"
        )
        added.add_argument(
            "--max-new-tokens", type=positive, metavar="N", help="longest text, in tokens (the model's own)"
        )
        added.add_argument(
            "--json", action="store_true", help="a JSON object per line: file, adapter, task, text, seconds"
        )
        added.add_argument(
            "--out",
            type=Path,
            metavar="FILE.jsonl",
            help="also append a JSON object per file, with the errors; a rerun goes on where the last one "
            "ended: it tries errors again, and files that changed, and any others if the model, the "
            "question, --beams or --max-new-tokens differ",
        )
        added.add_argument(
            "--batch",
            type=positive,
            default=1,
            metavar="N",
            help="files described together, for a GPU; the texts are the same (%(default)s)",
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
    if os.path.exists(args.question):
        kind = "folder" if os.path.isdir(args.question) else "file"
        raise EPALMError(
            f"The last argument is the question, but {args.question} is a {kind}; add a question in quotes."
        )
    return describe(args, args.question)


def describe(args: argparse.Namespace, question: str | None) -> int:
    """Caption files, or answer a question about them, as they come; a bad one does not stop the rest."""
    task = "caption" if question is None else "qa"
    chosen = ("model", "lm", "encoder", "beams", "max_new_tokens")
    settings = {"task": task, "question": question} | {name: getattr(args, name) for name in chosen}
    files, problems = find_files(args.files, args.out)
    alone = len(files) == 1 and args.files == [files[0].path]  # then its text needs no name in front
    for problem in problems:
        say(f"epalm: {problem}")

    def show(row: dict[str, Any]) -> None:
        line = " ".join(row["text"].split())
        if args.json:
            line = json_line(row)
        elif not alone:
            line = f"{row['file']}: {line}"
        print(line, flush=True)

    with Results(args.out, settings) if args.out else nullcontext() as results:
        todo, kept = files, 0
        if results:
            todo = [file for file in files if not results.has(file.path)]
            kept = len(files) - len(todo)
            todo = list({os.path.normpath(file.path): file for file in todo}.values())  # one row for each
        if kept:
            say(f"{args.out} has {kept} of {len(files)} files already.")
        with Progress(len(todo)) as progress:
            run = Run(question, results, progress, show, say=lambda problem: say(f"epalm: {problem}"))
            media = run.media(todo)
            if first := next(media, None):  # the model is loaded when there is something for it
                model = load_model(args)
                for text in model.texts.values():
                    if text.task.name == task:
                        text.input(question)  # refuses a bad question once, not once per file
                progress.start()
                run.answer(
                    model, itertools.chain([first], media), args.batch, args.beams, args.max_new_tokens
                )
    for why, count in run.passed_over.items():
        say(f"Passed over {count} {'file' if count == 1 else 'files'} in folders: {why}")
    refused = bool(problems or run.refused)
    if not (run.described or kept or refused):
        raise EPALMError(f"There is nothing to describe in {', '.join(args.files)}.")
    return REFUSED if refused else OK


def run_models(args: argparse.Namespace) -> int:
    if args.json:
        for row in [starter_row(), *table()]:
            print(json.dumps(row, ensure_ascii=False))
        return OK
    head = ("model", "task", "language model", "encoder", "trained", "download", "reported")
    rows = [head, *starter_lines()]
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
    notices = [starter_row()["licence"], *(row["licence"] for row in table())]
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


def starter_configs() -> list[AdapterConfig]:
    """What the shipped adapters say about themselves."""
    return [AdapterConfig.load(folder / CONFIG) for folder in adapter_folders(STARTER).values()]


def starter_row() -> dict[str, str]:
    """The starter in the form of the zoo's table."""
    configs = starter_configs()
    return {
        "name": "starter",
        "title": "Starter, shipped with this repository",
        "task": listed(config.task.name for config in configs),
        "modality": listed(config.task.modality for config in configs),
        "language model": configs[0].lm.id,
        "encoder": listed(config.encoder.id for config in configs),
        "trained parameters": "ships",
        "download": megabytes(configs),
        "reported": "",
        "licence": licences_of_configs(configs),
    }


def starter_lines() -> list[tuple[str, ...]]:
    """The starter in the printed table: a line for each modality; what it fetches is all in the first."""
    configs = starter_configs()
    lines: list[tuple[str, ...]] = []
    for modality in dict.fromkeys(config.task.modality for config in configs):
        of_it = [config for config in configs if config.task.modality == modality]
        tasks = listed(config.task.name for config in of_it)
        encoders = listed(short(config.encoder.id) for config in of_it)
        size = "with it" if lines else megabytes(configs)
        lines.append(("starter", f"{modality} {tasks}", short(configs[0].lm.id), encoders, "ships", size, ""))
    return lines


def megabytes(configs: Sequence[AdapterConfig]) -> str:
    """What starter adapters fetch on first use."""
    backbones = {backbone(id) for config in configs for id in (config.lm.id, config.encoder.id)}
    return f"{sum(WHEELS[id].megabytes for id in backbones)} MB"


def licences(lm: str, encoders: Iterable[str]) -> str:
    """The licence notice to show where a model with these backbones is chosen."""
    ids = list(dict.fromkeys(map(backbone, (lm, *encoders))))
    for preset in ZOO.values():
        if [preset.lm.id, preset.encoder.id] == ids:
            return licence_notice(preset)
    published = {part.id: part for preset in ZOO.values() for part in (preset.lm, preset.encoder)}
    parts: list[str] = []
    for id in ids:
        known = published.get(id) or WHEELS.get(id)
        verb = "" if parts else "is "
        parts.append(
            f"{short(id)} {verb}under {known.licence if known else 'a licence to look up at its source'}"
        )
    notice = f"{', '.join(parts)}."
    if restricted := [short(id) for id in ids if id in published and not published[id].commercial]:
        notice += f" Because of {' and '.join(restricted)}, this model is for non-commercial research only."
    return notice


def licences_of(model: EPALM, args: argparse.Namespace) -> str:
    """The licence notice of a loaded model, with the backbones that the options put in place of its own."""
    configs = [cast(Adapter, adapter).config for adapter in model.adapters.values()]
    return licences_of_configs(configs, args.lm, args.encoder)


def licences_of_configs(
    configs: Sequence[AdapterConfig], lm: str | None = None, encoder: str | None = None
) -> str:
    """The licence notice of adapters for one language model, with or without other backbones than theirs."""
    encoders = [encoder] if encoder else [config.encoder.id for config in configs]
    return licences(lm or configs[0].lm.id, encoders)


def backbone(id: str) -> str:
    """The weights behind an encoder's id: one that looks at every frame of a video is an image encoder."""
    return id.removeprefix("frames/")


def short(id: str) -> str:
    """A backbone's name without its origin."""
    return id.split("/")[-1]


def listed(items: Iterable[str]) -> str:
    """Different items in their order: "image, video"."""
    return ", ".join(dict.fromkeys(items))


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
