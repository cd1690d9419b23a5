"""python -m train COMMAND: prepare data, train and evaluate adapters, and build the ones that ship."""

from __future__ import annotations

import argparse
import sys
from io import TextIOWrapper

from epalm.errors import EPALMError
from train.commands import add_commands


def main() -> int:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # so that any file name can be printed
    parser = argparse.ArgumentParser(prog="python -m train", description=__doc__)
    add_commands(parser)
    arguments = parser.parse_args()
    try:
        return arguments.run(arguments) or 0
    except EPALMError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
