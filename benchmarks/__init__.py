import epalm  # noqa: F401  settles how threads wait, before anything imports PyTorch
