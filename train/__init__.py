"""Train eP-ALM adapters. `epalm` never imports this package."""
