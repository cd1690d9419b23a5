"""`python -m epalm`: see cli/main.py."""

import sys

try:
    from epalm.cli.main import main

    sys.exit(main())
except ModuleNotFoundError as error:
    if error.name is None or error.name.startswith("epalm"):
        raise
    sys.exit(
        f"epalm: this Python has no package {error.name}: run `make setup` and use .venv/bin/python, "
        "or install requirements.txt."
    )
except KeyboardInterrupt:  # while the libraries were being imported
    sys.exit(130)
