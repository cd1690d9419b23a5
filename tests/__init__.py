from epalm.startup import settle_waiting

settle_waiting()  # before anything imports PyTorch
