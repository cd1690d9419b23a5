"""Train eP-ALM adapters. `epalm` never imports this package."""

import epalm  # noqa: F401  settles how threads wait, before anything imports PyTorch
