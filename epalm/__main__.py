"""`python -m epalm`: see cli/main.py."""

import sys

from epalm.startup import settle_waiting

settle_waiting()
try:
    from epalm.cli.main import main

    sys.exit(main())
except KeyboardInterrupt:  # while the libraries were being imported
    sys.exit(130)
