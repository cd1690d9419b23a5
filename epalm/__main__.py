"""`python -m epalm`: see cli.py."""

import sys

try:
    from epalm.cli import main

    sys.exit(main())
except KeyboardInterrupt:  # while the libraries were being imported
    sys.exit(130)
