"""python -m train COMMAND: build the adapters that ship with this project, report on a training."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from epalm.errors import EPALMError
from train.report import add_report


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m train", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    starter = commands.add_parser(
        "starter",
        help="rebuild assets/starter from labelled pictures that Debian packages ship",
        description="Collect labelled pictures from Debian packages, encode them, train the starter's "
        "caption and question adapters, and measure them on held-out pictures and on photos from other "
        "packages. Every stage is kept in the work folder, so a second call goes on where the first "
        "one stopped.",
    )
    starter.add_argument("--work", type=Path, default=Path("runs/starter"), help="folder for everything made")
    starter.add_argument("--out", type=Path, help="write the adapters here instead of assets/starter")
    starter.add_argument("--threads", type=int, default=0, help="CPU threads; 0 = all")
    starter.set_defaults(run=build_starter)
    add_report(commands)
    arguments = parser.parse_args()
    try:
        arguments.run(arguments)
    except EPALMError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def build_starter(arguments: argparse.Namespace) -> None:
    from train.starter.build import build  # heavy imports only when they are needed

    build(arguments.work, arguments.out, arguments.threads)


if __name__ == "__main__":
    sys.exit(main())
