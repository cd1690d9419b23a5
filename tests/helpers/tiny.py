"""Tiny random language models and injections for the tests."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM

from epalm.config import InjectionConfig
from epalm.decoding import InjectedLM

LAYERS, WIDTH, VOCAB = 6, 32, 64

# Every layout that caching distinguishes: (start, end, text_step, tokens).
INJECTIONS = {
    "all replaced up to the end": (2, 6, 1, 4),
    "one layer after the range, as published": (1, 5, 1, 2),
    "several layers after the range": (0, 3, 1, 3),
    "a single token": (2, 5, 1, 1),
    "more tokens than layers": (3, 5, 1, 4),
    "gaps inside the range": (0, 6, 2, 3),
    "from the first layer": (0, 5, 1, 5),
}


def tiny_lm(family: str, seed: int = 0) -> InjectedLM:
    """An untrained LM with large weights, so that its logits differ clearly."""
    torch.manual_seed(seed)
    sizes = {"vocab_size": VOCAB, "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 4}
    ids = {"bos_token_id": 2, "eos_token_id": 2, "pad_token_id": 1}
    if family == "llama":
        config = LlamaConfig(**sizes, **ids, intermediate_size=64, num_key_value_heads=2)
        lm = LlamaForCausalLM(config)
    else:
        post_norm = family == "opt post-norm"
        config = OPTConfig(
            **sizes,
            **ids,
            ffn_dim=64,
            max_position_embeddings=64,
            word_embed_proj_dim=16 if post_norm else WIDTH,
            do_layer_norm_before=not post_norm,
        )
        lm = OPTForCausalLM(config)
    for parameter in lm.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.25)
    return InjectedLM(lm.requires_grad_(False).eval()).eval()


def injection(name: str, mask: str) -> tuple[InjectionConfig, int]:
    """The injection of a layout in `INJECTIONS`, and its number of tokens."""
    start, end, text_step, tokens = INJECTIONS[name]
    return InjectionConfig(start, end, text_step, mask), tokens
