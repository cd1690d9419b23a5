"""Models of the paper's sizes with random weights: their speed is that of the real ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import timm
import torch
from torch import Tensor
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
)

from epalm.config import GenerationConfig, InjectionConfig
from epalm.decoding import InjectedLM
from epalm.encoders.timm_image import TimmImageEncoder

PROMPT = 10  # rows of the soft prompt, as in the paper
START = 2  # OPT's first token, from which a caption starts


@dataclass(frozen=True)
class Size:
    """The sizes of an LM and where it is injected: the last layers, one [CLS] feature each or for several."""

    layers: int
    width: int
    heads: int
    start: int
    end: int
    embed: int | None = None
    tokens: int = 6


OPT = {
    "opt-tiny": Size(4, 64, 4, 1, 4, tokens=3),
    "opt-125m": Size(12, 768, 12, 6, 12),
    "opt-350m": Size(24, 1024, 16, 12, 24, embed=512),
    "opt-2.7b": Size(32, 2560, 32, 19, 31),
    "opt-6.7b": Size(32, 4096, 32, 19, 31),
}
SMOLLM2: dict[str, Any] = {
    "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
    "num_attention_heads": 9, "num_key_value_heads": 3, "rope_theta": 100000.0, "tie_word_embeddings": True,
}  # fmt: skip


def opt_config(name: str) -> OPTConfig:
    size = OPT[name]
    return OPTConfig(
        hidden_size=size.width,
        ffn_dim=4 * size.width,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        word_embed_proj_dim=size.embed or size.width,
        do_layer_norm_before=size.embed is None,
        eos_token_id=None,  # so that all texts are equally long
        vocab_size=50272 if size.width > 64 else 512,
    )


def random_opt(name: str, device: str = "cpu", dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """An OPT of a published size; the same weights every time."""
    torch.manual_seed(0)
    return _made(OPTForCausalLM, opt_config(name), device, dtype)


def random_smollm2() -> PreTrainedModel:
    """A model of the size of the starter's LM, of the library's own class."""
    torch.manual_seed(0)
    return _made(LlamaForCausalLM, LlamaConfig(**SMOLLM2, eos_token_id=None), "cpu", torch.float32)


def random_blip2(name: str) -> Blip2ForConditionalGeneration:
    """BLIP-2 with an OPT of this size, a ViT of the size of ViT-B/16 and its own Q-Former."""
    torch.manual_seed(0)
    vit = Blip2VisionConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, patch_size=16,
        image_size=224,
    )  # fmt: skip
    text = opt_config(name)
    config = Blip2Config(
        vision_config=vit,
        qformer_config=Blip2QFormerConfig(encoder_hidden_size=768),
        text_config=text,
        image_token_index=text.vocab_size - 1,
    )
    return Blip2ForConditionalGeneration(config).eval()


def random_vit() -> TimmImageEncoder:
    """ViT-B/16, whose last six [CLS] features are injected."""
    torch.manual_seed(0)
    return TimmImageEncoder(timm.create_model("vit_base_patch16_224", pretrained=False, num_classes=0))


def _made(kind: type[PreTrainedModel], config, device: str, dtype: torch.dtype) -> PreTrainedModel:
    config._attn_implementation = "sdpa"
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            lm = kind(config)
    finally:
        torch.set_default_dtype(before)
    for parameter in lm.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.02)
    return lm.requires_grad_(False).eval()


class Injected:
    """An LM with random perceptual tokens and a random soft prompt, ready to decode.

    Args:
        mask: of the perceptual token; the published adapters have `reference`.
    """

    def __init__(self, lm: PreTrainedModel, size: Size, mask: str = "causal"):
        self.base, self.lm = lm, InjectedLM(lm).eval()
        self.size, self.mask = size, mask
        self.like = next(lm.parameters())
        self.injection = InjectionConfig(size.start, size.end, mask=mask)  # type: ignore[arg-type]

    def inputs(self, batch: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Ids (B, 1), mask, soft prompt (B, P, E) and perceptual tokens (B, n, H)."""
        torch.manual_seed(1)
        ids = torch.full((batch, 1), START, device=self.like.device)
        prompt = torch.randn(1, PROMPT, self.size.embed or self.size.width).expand(batch, -1, -1) * 0.1
        tokens = torch.randn(batch, self.size.tokens, self.size.width)
        return ids, torch.ones_like(ids), prompt.to(self.like), tokens.to(self.like)

    def decode(
        self,
        batch: int,
        beams: int,
        new: int,
        use_cache: bool = True,
        tokens: Tensor | None = None,
        **options,
    ) -> Tensor:
        """(B, 1 + new) ids; `tokens` instead of random ones."""
        ids, mask, prompt, random = self.inputs(batch)
        generation = GenerationConfig(num_beams=beams, max_new_tokens=new)
        if tokens is None:
            tokens = random
        return self.lm.decode(ids, mask, prompt, tokens, self.injection, generation, use_cache, **options)
