"""Frozen perceptual encoders, one module per kind of network; `load.load_encoder` finds the right one."""
