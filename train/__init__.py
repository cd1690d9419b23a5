"""Train eP-ALM adapters. `epalm` never imports this package."""

from epalm.startup import settle_waiting

settle_waiting()  # before anything imports PyTorch
