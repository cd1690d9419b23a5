"""The commands `convert` and `verify`, about the original implementation."""

from __future__ import annotations

import argparse

import torch

from epalm.cli.terminal import MISMATCH, OK, REFUSED, say
from epalm.errors import EPALMError
from epalm.hub.checkpoints import convert
from epalm.hub.zoo import ZOO, licence_notice
from epalm.verify import Check, verify


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
    dtype = getattr(torch, args.dtype)
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
