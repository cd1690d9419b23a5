"""The commands `caption` and `ask`."""

from __future__ import annotations

import argparse
import itertools
import os
from contextlib import nullcontext
from typing import Any, cast

import torch

from epalm.adapter import Adapter
from epalm.cli.batch import Progress, Run, find_files
from epalm.cli.parts import Share, open_results
from epalm.cli.terminal import OK, REFUSED, say
from epalm.errors import EPALMError
from epalm.hub.licences import licences_of_configs
from epalm.hub.zoo import ZOO, licence_notice
from epalm.media.reader import ReadingProcess
from epalm.model import EPALM
from epalm.results import json_line

FILE_SECONDS = 600.0  # that reading one file may take


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
    chosen = ("model", "lm", "encoder", "dtype", "beams", "max_new_tokens")
    settings = {"task": task, "question": question} | {name: getattr(args, name) for name in chosen}
    share = Share.of_environment()
    if share.launched and args.out is None:
        raise EPALMError("Several processes share the files; give a folder for their texts with --out.")
    files, problems = find_files(args.files, args.out)
    alone = len(files) == 1 and args.files == [files[0].path]  # then its text needs no name in front
    files = share.of(files)
    for problem in problems if share.rank == 0 else []:
        say(f"epalm: {problem}")

    def show(row: dict[str, Any]) -> None:
        line = " ".join(row["text"].split())
        if args.json:
            line = json_line(row)
        elif not alone:
            line = f"{row['file']}: {line}"
        print(line, flush=True)

    with open_results(args.out, settings, share) if args.out else nullcontext() as results:
        todo, kept = files, 0
        if results:
            todo = [file for file in files if not results.has(file.path)]
            kept = len(files) - len(todo)
            todo = list({os.path.normpath(file.path): file for file in todo}.values())  # one row for each
        if kept:
            say(f"{args.out} has {kept} of {len(files)} files already.")
        # A file that makes its decoder crash or hang does not end the run.
        with Progress(len(todo)) as progress, ReadingProcess(FILE_SECONDS) as reader:
            run = Run(question, results, progress, show, lambda problem: say(f"epalm: {problem}"), reader)
            media = run.media(todo)
            if first := next(media, None):  # the model is loaded when there is something for it
                model = load_model(args, share.device())
                model.reader = reader
                for adapted in model.adapted.values():
                    if adapted.text.task.name == task:
                        adapted.text.input(question)  # refuses a bad question once, not once per file
                progress.start()
                run.answer(
                    model, itertools.chain([first], media), args.batch, args.beams, args.max_new_tokens
                )
    for why, count in run.passed_over.items():
        say(f"Passed over {count} {'file' if count == 1 else 'files'} in folders: {why}")
    refused = bool(problems or run.refused)
    if not (run.described or kept or refused or share.launched):
        raise EPALMError(f"There is nothing to describe in {', '.join(args.files)}.")
    # Of several processes, one that ends in failure would have the launcher stop the others in their work.
    return REFUSED if refused and not share.launched else OK


def load_model(args: argparse.Namespace, device: str | None = None) -> EPALM:
    """The model that the options name; says on stderr what takes time and which licences apply."""
    dtype = getattr(torch, args.dtype) if args.dtype else None
    if args.model in ZOO:  # before gigabytes are fetched
        say(licence_notice(ZOO[args.model]))
    model = EPALM.from_pretrained(
        args.model, device=args.device or device, dtype=dtype, lm=args.lm, encoder=args.encoder, progress=say
    )
    if args.model not in ZOO:
        say(licences_of(model, args))
    return model


def licences_of(model: EPALM, args: argparse.Namespace) -> str:
    """The licence notice of a loaded model, with the backbones that the options put in place of its own."""
    configs = [cast(Adapter, adapter).config for adapter in model.adapters.values()]
    return licences_of_configs(configs, args.lm, args.encoder)
