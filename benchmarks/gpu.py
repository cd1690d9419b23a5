"""What a GPU makes of it: the paper's language models with random weights, in 16 bit.

    python -m benchmarks.gpu                        # OPT-2.7B and OPT-6.7B on the first GPU, 10 minutes
    python -m benchmarks.gpu --models opt-2.7b --parts decoding captions
    python -m benchmarks.gpu --device cpu --dtype float32 --models opt-tiny --captions 64 --items 256

Three parts: *decoding* (3 beams, batch 1 and 64, and how near a token comes to the memory's bandwidth),
*captions* (5,000 from cached features), *epoch* (training one epoch of the COCO recipe's shape from cached
features).
"""

from __future__ import annotations

import argparse
import statistics
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.models import OPT, PROMPT, START, Injected, random_opt
from benchmarks.timing import RESULTS, Row, Table, bandwidth, matmul_rate, timed
from epalm.adapter import SoftPrompt
from epalm.decoding import text_loss

FEATURE = 768  # width of a ViT-B/16's [CLS]
BEAMS, NEW = 3, 30
EPOCH = 113_287  # training pictures of COCO, Karpathy's split; an epoch takes one caption of each
CAPTION = 14  # tokens of a caption with its start and end, on average
BATCH = 64


def decoding(table: Table, name: str, model: Injected, device: str) -> None:
    """Seconds per text and per token, and the share of the limit that the memory sets."""
    weights = sum(p.numel() * p.element_size() for p in model.base.parameters())
    speed = bandwidth(device)
    table.notes.append(f"{name}: {weights / 1e9:.2f} GB of weights, memory read at {speed / 1e9:.0f} GB/s")
    size, element = model.size, model.like.element_size()
    for batch, beams in ((1, 1), (1, BEAMS), (64, 1), (64, BEAMS)):
        case = f"{name}, batch {batch}, {beams} beam{'s' * (beams > 1)}"
        short, long = NEW // 3, NEW
        seconds: dict[int, list[float]] = {short: [], long: []}
        for i in range(6):
            for new in seconds:
                took = timed(partial(model.decode, batch, beams, new))
                if i:  # the first one warms up
                    seconds[new].append(took)
        table.add(Row(case, f"{long} tokens, end to end", seconds[long]))
        pairs = zip(seconds[short], seconds[long], strict=True)
        per_token = [1000 * (b - a) / (long - short) for a, b in pairs]
        # Keys and values of all rows that a token in the middle sees are read, too.
        rows = batch * beams * (1 + PROMPT + 1 + (short + long) // 2)
        read = weights + rows * 2 * size.width * size.layers * element
        share = read / speed / (statistics.median(per_token) / 1000)
        table.add(Row(case, "per token", per_token, "ms", f"{share:.0%} of the bandwidth limit"))


def captions(table: Table, name: str, model: Injected, device: str, count: int, batch: int) -> None:
    """Captions of cached features: connector, prompt and decoding, in batches."""
    like, size = model.like, model.size
    torch.manual_seed(0)
    features = torch.randn(count, size.tokens, FEATURE, dtype=torch.float16)
    connector = [nn.Linear(FEATURE, size.width, device=device) for _ in range(size.tokens)]

    @torch.inference_mode()
    def run() -> None:
        for first in range(0, count, batch):
            part = features[first : first + batch].to(device, torch.float32)
            tokens = torch.stack([linear(part[:, j]) for j, linear in enumerate(connector)], 1)
            model.decode(len(part), BEAMS, NEW, tokens=tokens.to(like))

    model.decode(batch, BEAMS, 2)
    note = f"batch {batch}, {BEAMS} beams, {NEW} tokens each"
    table.add(Row(f"{name}, {count} captions", "from cached features", [timed(run)], note=note))


def epoch(table: Table, name: str, model: Injected, device: str, items: int, steps: int) -> None:
    """Training steps of the COCO recipe from cached features; the epoch is extrapolated from their median."""
    size, like = model.size, model.like
    torch.manual_seed(0)
    connector = nn.ModuleList(nn.Linear(FEATURE, size.width, device=device) for _ in range(size.tokens))
    prompt = SoftPrompt(PROMPT, size.embed or size.width, mlp=False).to(device)
    optimizer = torch.optim.AdamW([*connector.parameters(), *prompt.parameters()], lr=2e-4)
    scaler = torch.amp.GradScaler(device, enabled=like.dtype == torch.float16)
    batch = min(BATCH, items)
    features = torch.randn(4 * batch, size.tokens, FEATURE, dtype=torch.float16)
    lengths = torch.randint(CAPTION - 4, CAPTION + 5, (4 * batch,))

    def step(i: int) -> Tensor:
        at = torch.arange(batch) + batch * (i % 4)
        width = int(lengths[at].max())
        ids = torch.randint(3, model.lm.config.vocab_size, (batch, width))
        ids[:, 0] = START
        mask = (torch.arange(width) < lengths[at][:, None]).long()
        labels = ids.masked_fill(mask == 0, -100)
        ids, mask, labels = ids.to(device), mask.to(device), labels.to(device)
        part = features[at].to(device, torch.float32)
        tokens = torch.stack([linear(part[:, j]) for j, linear in enumerate(connector)], 1)
        rows = prompt().expand(batch, -1, -1)
        logits = model.lm(ids, mask, rows, tokens, model.injection, logits_to_keep=width).logits
        loss = text_loss(logits, labels).sum() / mask.sum()
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss

    seconds = [timed(partial(step, i)) for i in range(steps + 3)][3:]
    minutes = statistics.median(seconds) * items / batch / 60
    note = f"{items} items: {minutes:.1f} min per epoch"
    table.add(Row(f"{name}, training, batch {batch}", "step from cached features", seconds, note=note))
    if device.startswith("cuda"):
        table.notes.append(f"{name}: {torch.cuda.max_memory_allocated() / 1e9:.1f} GB of GPU memory at most")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=list(OPT), default=["opt-2.7b", "opt-6.7b"])
    parser.add_argument("--parts", nargs="+", default=["decoding", "captions", "epoch"])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="float16")
    parser.add_argument("--mask", default="causal", choices=["causal", "reference"])
    parser.add_argument("--captions", type=int, default=5000)
    parser.add_argument("--batch", type=int, default=256, help="of the captions")
    parser.add_argument("--items", type=int, default=EPOCH, help="of the epoch")
    parser.add_argument("--steps", type=int, default=30, help="training steps that are timed")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    args = parser.parse_args()
    dtype = getattr(torch, args.dtype)
    table = Table("gpu", "On a GPU")
    rate = matmul_rate(args.device, dtype, 4096 if args.device != "cpu" else 512)
    table.notes.append(f"matrix products: {rate / 1e12:.2f} T multiply-adds per second in {args.dtype}")
    for name in args.models:
        model = Injected(random_opt(name, args.device, dtype), OPT[name], args.mask)
        if "decoding" in args.parts:
            decoding(table, name, model, args.device)
        if "captions" in args.parts:
            captions(table, name, model, args.device, args.captions, args.batch)
        if "epoch" in args.parts:
            epoch(table, name, model, args.device, args.items, args.steps)
        del model
        if args.device.startswith("cuda"):
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
    for note in table.notes:
        print(note)
    print(f"Saved in {table.save(args.out)}")


if __name__ == "__main__":
    main()
