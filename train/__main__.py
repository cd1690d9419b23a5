"""python -m train COMMAND: retrain and evaluate adapters on the benchmarks, build those that ship."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from epalm.errors import EPALMError
from train.commands import add_evaluate, add_fit, add_report, add_study
from train.data.prepare import add_prepare
from train.features.command import add_features


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m train", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    add_prepare(commands)
    add_features(commands)
    add_fit(commands)
    add_evaluate(commands)
    add_report(commands)
    add_study(commands)
    starter = commands.add_parser(
        "starter",
        help="rebuild assets/starter from pictures and sounds that Debian packages ship",
        description="Collect labelled pictures and sounds from Debian packages, make clips of them, encode "
        "all, train the starter's six adapters, and measure them on what was held out and on real files. "
        "Every stage is kept in the work folder, so a second call goes on where the first one stopped.",
    )
    starter.add_argument("--work", type=Path, default=Path("runs/starter"), help="folder for everything made")
    starter.add_argument("--out", type=Path, help="write the adapters here instead of assets/starter")
    starter.add_argument("--threads", type=int, default=0, help="CPU threads; 0 = all")
    starter.add_argument(
        "--data-only", action="store_true", help="stop before the training: media, features, manifests"
    )
    starter.set_defaults(run=build_starter)
    arguments = parser.parse_args()
    try:
        return arguments.run(arguments) or 0
    except EPALMError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def build_starter(arguments: argparse.Namespace) -> int:
    from train.starter.build import build  # heavy imports only when they are needed

    return build(arguments.work, arguments.out, arguments.threads, arguments.data_only)


if __name__ == "__main__":
    sys.exit(main())
