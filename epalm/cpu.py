"""The frozen LM's matrix products on a CPU: weights in the layout that is fastest, or in 8 bits.

Decoding reads every weight once per token, for as many rows as there are texts and beams. For two to a few
dozen rows the library's product with row-major weights reaches a fraction of the memory's speed; oneDNN's
blocked layout and int8 weights come close to it. The library multiplies one row on one thread; as a batch of
parts of the weights, it does so on all (benchmarks/README.md has the numbers). Gradients still flow through
the plain weights, which stay where they are: mapped from the file, or shared with the embedding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Product = Callable[[Tensor], Tensor]
ROWS = 64  # for which oneDNN lays the weights out; best or close to it for 1 to 200 rows
PART = 2**16  # weights that are worth a thread of their own
WIDE = 2  # times as wide as its input: then one row is faster with a copy of the weights, transposed


class FrozenLinear(nn.Linear):
    """A linear layer with its weights in a second form, which passes without gradients use.

    Args:
        layer: whose parameters it takes over.
    """

    product: Product | None = None
    row_product: Product | None = None  # of one row, where that is another one
    backward_product: Product | None = None  # of gradients with the transposed weights
    steps_only = False  # whether the second form is for single positions (B, 1, in) alone

    def __init__(self, layer: nn.Linear):
        bias = layer.bias is not None
        super().__init__(layer.in_features, layer.out_features, bias, device="meta")
        self.weight = layer.weight
        self.bias = layer.bias
        self.train(layer.training)

    def forward(self, input: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            # A training must not depend on whether something was decoded before, as its validation does.
            return super().forward(input) if self.backward_product is None else _Product.apply(input, self)
        product = None if self.steps_only and input.ndim == 3 and input.shape[1] > 1 else self.product
        if self.row_product is not None and input.numel() == self.in_features:
            product = self.row_product
        return super().forward(input) if product is None else product(input)

    def row_major(self, input: Tensor) -> Tensor:
        """The product with the plain weights, as they are."""
        return super().forward(input)

    def _apply(self, fn: Callable, recurse: bool = True) -> FrozenLinear:
        # They were made for the device and the dtype that the weights had.
        self.product = self.row_product = self.backward_product = None
        return super()._apply(fn, recurse)


def pack(model: nn.Module) -> None:
    """Lay out the weights of all linear layers for decoding; does nothing the second time.

    Exact up to the order in which products are summed. Layers in float32, and in bfloat16 where the CPU
    computes in it, are packed; others, and those on another device, stay as they are. Those in float32 that
    are much wider than their input are kept in a third layout, for one row.
    """
    if getattr(model, "is_packed", False) or not torch.backends.mkldnn.is_available():
        return
    model.is_packed = True  # type: ignore[assignment]
    dtypes = {torch.float32}
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        dtypes.add(torch.bfloat16)
    for layer in _frozen_layers(model):
        if layer.product is None and layer.weight.dtype in dtypes:
            layer.product = _packed(layer)
            if layer.weight.dtype == torch.float32:
                layer.row_product = _in_parts(layer)


def pack_for_training(model: nn.Module) -> None:
    """`pack`, for passes that gradients flow back through as well: the weights are kept twice more."""
    pack(model)
    for layer in _frozen_layers(model):
        if layer.product is not None and layer.backward_product is None:
            layer.backward_product = _packed(layer, transposed=True)


class _Product(torch.autograd.Function):
    """The product with a frozen layer's packed weights, and with their transpose on the way back."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, layer: FrozenLinear) -> Tensor:
        ctx.layer = layer
        assert layer.product is not None
        return layer.product(input)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.layer.backward_product(gradient.contiguous()), None


def quantise(model: nn.Module, steps_only: bool = False) -> None:
    """Round the weights of all linear layers to int8, each output with its own scale.

    Inputs are rounded to 8 bits on the fly, with one scale for all rows of a batch, so what else is in the
    batch can change a text. benchmarks/README.md has the share of captions that change.

    Args:
        steps_only: keep passes over several positions (B, T, in) exact, as the first one over a prompt. In
            it single positions have values that are many times as large as all others, so that one scale for
            all leaves nothing of these.
    """
    for layer in _frozen_layers(model):
        layer.product = _int8(layer)
        layer.steps_only = steps_only


def _frozen_layers(model: nn.Module) -> list[FrozenLinear]:
    """All linear layers that are on a CPU, made able to hold their weights in a second form."""
    found = []
    for name, module in list(model.named_modules()):
        if type(module) is nn.Linear and module.weight.is_cpu:
            parent, _, child = name.rpartition(".")
            module = FrozenLinear(module)
            setattr(model.get_submodule(parent), child, module)
        if isinstance(module, FrozenLinear) and module.weight.is_cpu:
            found.append(module)
    return found


@torch.no_grad()
def _packed(layer: nn.Linear, transposed: bool = False) -> Product:
    weight = layer.weight.detach().T.contiguous() if transposed else layer.weight.detach()
    weight = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS)
    bias = None if layer.bias is None or transposed else layer.bias.detach()
    product = torch.ops.mkldnn._linear_pointwise.default
    return lambda rows: product(rows, weight, bias, "none", [], "")


@torch.no_grad()
def _in_parts(layer: FrozenLinear) -> Product:
    """The product of one row, as a batch of products that share the threads."""
    most = min(torch.get_num_threads(), max(1, layer.weight.numel() // PART))
    parts = next(n for n in range(most, 0, -1) if layer.out_features % n == 0)
    weight = layer.weight.detach().view(parts, -1, layer.in_features).transpose(1, 2)
    if layer.out_features >= WIDE * layer.in_features:
        weight = weight.contiguous()
    elif parts == 1:
        return layer.row_major
    bias = None if layer.bias is None else layer.bias.detach().view(parts, 1, -1)

    def product(row: Tensor) -> Tensor:
        rows = row.view(1, 1, -1).expand(parts, 1, -1)
        out = torch.bmm(rows, weight) if bias is None else torch.baddbmm(bias, rows, weight)
        return out.view(*row.shape[:-1], -1)

    return product


@torch.no_grad()
def _int8(layer: nn.Linear) -> Product:
    weight = layer.weight.detach().float()
    scales = weight.abs().amax(1).clamp(min=1e-12).double() / 127
    zeros = torch.zeros(len(scales), dtype=torch.long)
    rounded = torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8)
    bias = None if layer.bias is None else layer.bias.detach().float()
    packed = torch.ops.quantized.linear_prepack(rounded, bias)
    product = torch.ops.quantized.linear_dynamic.default
    # Without VNNI, products of 8-bit numbers are added in 16 bits; one bit less keeps them from overflow.
    spares_a_bit = not torch.cpu._is_vnni_supported()
    return lambda rows: product(rows, packed, spares_a_bit)
