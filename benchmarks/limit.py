"""How near a token comes to what the machine can do: `python -m benchmarks.limit`.

At batch 1 a token must read every weight once: the limit is the memory. At large batches every weight is used
for many rows: the limit is the rate of multiply-adds. Both are measured here, in the same run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.decoding import STARTER
from benchmarks.models import OPT, Injected, Size, random_opt, random_smollm2
from benchmarks.timing import Row, Table, bandwidth, matmul_rate, paired
from epalm.cpu import FrozenLinear, pack, quantise

NEW = 30
ROWS = (1, 3, 12, 48)


def model_limits(table: Table, name: str, make: Callable[[], Any], size: Size) -> None:
    """Milliseconds per token, and the share of the nearer of the two limits."""
    for kind, bytes_each in (("float32", 4), ("int8", 1)):
        model = Injected(make(), size)
        if kind == "float32":
            pack(model.base)
        else:
            quantise(model.base, steps_only=True)
        linear = {
            id(m.weight): m.weight.numel() for m in model.base.modules() if isinstance(m, torch.nn.Linear)
        }
        weights = sum(linear.values())
        for batch in (1, 16, 64) if kind == "float32" else (1,):
            runs = {"short": partial(model.decode, batch, 1, 2), "long": partial(model.decode, batch, 1, NEW)}
            speed, rate = bandwidth(), matmul_rate()
            samples = paired(runs, 5, 3)
            pairs = zip(samples["short"], samples["long"], strict=True)
            each = [1000 * (b - a) / (NEW - 2) for a, b in pairs]
            row = Row(f"{name}, batch {batch}, {kind}", "per token", each, "ms")
            reading, computing = weights * bytes_each / speed * 1000, weights * batch / rate * 1000
            limit = max(reading, computing if kind == "float32" else 0)
            what = "reading the weights" if limit == reading else "multiply-adds"
            row.note = f"{limit / row.median:.0%} of the limit, {what} at {limit:.1f} ms"
            table.add(row)


def layouts(table: Table) -> None:
    """One layer's product by layout of the weights and number of rows; 20 layers, so that no cache helps."""
    for wide, narrow in ((768, 3072), (3072, 768), (768, 768)):
        layers = [torch.nn.Linear(wide, narrow) for _ in range(20)]
        forms = {
            kind: torch.nn.Sequential(*(copy_of(layer) for layer in layers))
            for kind in ("packed", "in parts", "int8")
        }
        pack(forms["packed"])
        pack(forms["in parts"])
        for layer in forms["packed"]:
            assert isinstance(layer, FrozenLinear)
            layer.row_product = None
        quantise(forms["int8"])
        weights = [layer.weight.detach().T.contiguous() for layer in layers]
        with torch.inference_mode():
            for rows in ROWS:
                x = torch.randn(rows, wide)
                runs: dict[str, Callable[[], Any]] = {"row-major": partial(through, layers, x)}
                runs["transposed"] = partial(transposed, weights, layers, x)
                kinds = [kind for kind in forms if kind != "in parts" or rows == 1]
                runs |= {kind: partial(through, forms[kind], x) for kind in kinds}
                for kind, seconds in paired(runs, 9, 2).items():
                    each = [1e6 * s / len(layers) for s in seconds]
                    table.add(Row(f"{wide} to {narrow}, {rows} rows", kind, each, "µs"))


def through(layers: Iterable[torch.nn.Module], x: Tensor) -> None:
    for layer in layers:
        layer(x)


def transposed(weights: list[Tensor], layers: list[torch.nn.Linear], x: Tensor) -> None:
    for weight, layer in zip(weights, layers, strict=True):
        torch.addmm(layer.bias, x, weight)


def copy_of(layer: torch.nn.Linear) -> torch.nn.Linear:
    other = torch.nn.Linear(layer.in_features, layer.out_features)
    other.load_state_dict(layer.state_dict())
    return other


def main() -> None:
    table = Table("limit", "The machine's limits")
    table.add(Row("memory", "read bandwidth", [bandwidth() / 1e9 for _ in range(3)], "GB/s"))
    table.add(
        Row("processor", "float32 products of matrices", [matmul_rate() / 1e9 for _ in range(3)], "G madd/s")
    )
    layouts(table)
    model_limits(table, "opt-125m", lambda: random_opt("opt-125m"), OPT["opt-125m"])
    model_limits(table, "SmolLM2-135M", random_smollm2, STARTER)
    table.save()


if __name__ == "__main__":
    main()
