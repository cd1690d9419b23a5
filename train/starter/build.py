"""Train the starter's adapters on features that `train.starter` has prepared in a work folder."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from epalm.adapter import CONFIG, Adapter
from epalm.backbones import choose_device, load_lm
from epalm.config import (
    AdapterConfig,
    EncoderConfig,
    GenerationConfig,
    InjectionConfig,
    LMConfig,
    PromptConfig,
    TaskConfig,
)
from epalm.decoding import InjectedLM
from epalm.image import RECIPES
from epalm.model import EPALM, STARTER
from epalm.text import TaskText
from train.loop import Schedule, batch_loss, fit
from train.starter.data import TOKENS, Batches, StarterData, held_out
from train.starter.distil import MILD, WIDE, Spread
from train.starter.evaluate import report
from train.starter.examples import CAPTION, QA, question_about
from train.starter.features import encode_pictures
from train.starter.photos import gather_photos
from train.starter.pictures import write_manifest
from train.starter.split import split_pictures

LM = LMConfig(
    "starter/smollm2-135m-instruct", hidden_size=576, embed_size=576, num_layers=30, model_type="llama"
)
ENCODER = EncoderConfig("starter/efficientnet-lite2", (-1,) * TOKENS, (1280,) * TOKENS)
INJECTION = InjectionConfig(start_layer_idx=10, end_layer_idx=30)
PROMPTS = {"caption": "Look at the photo. Say in a few words what it shows.",
           "qa": "Look at the photo and answer the question in a few words."}  # fmt: skip


def training_lm() -> tuple[InjectedLM, PreTrainedTokenizerBase]:
    """The starter's LM for training: in bfloat16, with plain attention (faster than fused for 20 rows)."""
    lm, tokenizer = load_lm(LM, choose_device(), torch.bfloat16)
    lm.set_attn_implementation("eager")
    return InjectedLM(lm), tokenizer


def new_adapter(
    task: TaskConfig,
    lm: InjectedLM,
    tokenizer: PreTrainedTokenizerBase,
    injection: InjectionConfig = INJECTION,
) -> Adapter:
    """An untrained adapter whose soft prompt starts as the embedding of a sentence."""
    words = tokenizer(PROMPTS[task.name])["input_ids"]
    config = AdapterConfig(
        lm=LM,
        encoder=ENCODER,
        injection=injection,
        prompt=PromptConfig(len(words), mlp=False),
        task=task,
        generation=GenerationConfig(num_beams=1, max_new_tokens=20),
        recipe=RECIPES["starter"].to_dict(),
        description=f"Starter: image {task.name} with SmolLM2-135M and EfficientNet-Lite2",
    )
    torch.manual_seed(0)
    adapter = Adapter(config)
    embedded = lm.lm.get_input_embeddings()(torch.tensor(words, device=lm.device))
    adapter.prompt.embedding.weight.data.copy_(embedded.float())
    return adapter.to(lm.device)


def on_raw_features(adapter: Adapter, mean: Tensor, std: Tensor) -> Adapter:
    """The same function of raw features: W (x - mean) / std + b is one linear map again."""
    raw = Adapter(adapter.config)
    raw.load_state_dict(adapter.state_dict())
    for connector in raw.connector:
        connector.weight.data /= std
        connector.bias.data -= connector.weight.data @ mean
    return raw


@torch.no_grad()
def held_out_loss(lm: InjectedLM, adapter: Adapter, data: StarterData, text: TaskText) -> tuple[float, float]:
    """Loss per token on held-out pictures, with their own features and with another picture's."""
    rng = random.Random(0)
    picked = held_out(data)
    pool = [data.things[i] for i in data.train]
    examples = [
        (None, data.things[i].names[0])
        if text.task.name == "caption"
        else question_about(data.things[i], pool, rng)
        for i in picked
    ]
    features = data.standardised(data.views[picked, 0])
    batches = Batches(data, text, 2)
    losses = []
    for shift in (0, len(picked) // 2):
        total = 0.0
        for part in range(0, len(picked), 64):
            rows = slice(part, part + 64)
            batch = batches.batch(features.roll(shift, 0)[rows], examples[rows])
            total += batch_loss(lm, adapter, batch).item() * len(examples[rows])
        losses.append(total / len(picked))
    return losses[0], losses[1]


@dataclasses.dataclass(frozen=True)
class Stage:
    """A part of an adapter's training, with a checkpoint of its own."""

    name: str
    schedule: Schedule
    batch: int
    spread: Spread


STAGES = {
    "caption": (
        Stage("caption-mild", Schedule(steps=1100, lr=3e-3, prompt_lr=3e-3), 48, MILD),
        Stage("caption-wide", Schedule(steps=350, lr=1.5e-3, prompt_lr=1e-3), 48, WIDE),
    ),
    "qa": (Stage("qa", Schedule(steps=300, lr=1e-3, prompt_lr=3e-3), 40, WIDE),),
}


def train_adapter(task: TaskConfig, data: StarterData, work: Path, out: Path) -> None:
    """Train one adapter through its stages and write its folder; goes on from its checkpoints.

    The question adapter starts from the caption adapter's connectors: what features mean is learned there.
    """
    lm, tokenizer = training_lm()
    text = TaskText(task, tokenizer)
    adapter = new_adapter(task, lm, tokenizer)
    if task.name == "qa":
        learned = torch.load(work / f"{STAGES['caption'][-1].name}.checkpoint", weights_only=True)["adapter"]
        connectors = {k: v for k, v in learned.items() if k.startswith("connector.")}
        adapter.load_state_dict(connectors, strict=False)
    for stage in STAGES[task.name]:

        def log(message: str, name: str = stage.name) -> None:
            print(f"{name}: {message}", flush=True)

        batches = Batches(data, text, stage.batch, stage.spread)
        fit(lm, adapter, batches, stage.schedule, work / f"{stage.name}.checkpoint", log)
        own, other = held_out_loss(lm, adapter, data, text)
        log(f"held-out loss per token {own:.3f}, with another picture's features {other:.3f}")
    metrics = {"held_out_loss": round(own, 4), "held_out_loss_other_picture": round(other, 4)}
    raw = on_raw_features(adapter, data.mean, data.std)
    raw.config = dataclasses.replace(adapter.config, metrics=metrics)
    raw.half().save(out / f"image-{task.name}")


def build(work: Path, out: Path | None, threads: int) -> None:
    """All stages of the starter; each is skipped if its result is in the work folder.

    Args:
        out: folder of the adapters, `assets/starter` if None.
        threads: of the CPU; 0 = all.
    """
    if threads:
        torch.set_num_threads(threads)
    out = out or STARTER
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "manifest.jsonl").exists():
        write_manifest(work)
    if not (work / "features.safetensors").exists():
        encode_pictures(work)
    if '"split"' not in (work / "manifest.jsonl").read_text():
        split_pictures(work)
    photos = gather_photos(work)  # now, lest a package is missed after hours of training
    data = StarterData(work)
    for task in (CAPTION, QA):
        train_adapter(task, data, work, out)
    names = [f"image-{task.name}" for task in (CAPTION, QA)]
    (out / CONFIG).write_text(json.dumps({"adapters": names}, indent=2) + "\n")
    report(EPALM.from_pretrained(out), data, photos, out / "README.md")
