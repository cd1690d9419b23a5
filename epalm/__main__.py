"""`python -m epalm`: see cli.py."""

import sys

from epalm.cli import main

sys.exit(main())
