"""Train the starter's adapters on features that `train.starter` has prepared in a work folder."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from epalm.adapter import CONFIG, Adapter
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
from epalm.language_model import choose_device, load_lm
from epalm.media import audio, image, video
from epalm.model import EPALM, STARTER
from epalm.text import TaskText
from train.loop import Batch, Schedule, batch_loss, fit, make_batch
from train.starter import examples
from train.starter.clips import batches as clip_batches
from train.starter.clips import features as clip_features
from train.starter.clips.batches import ClipData
from train.starter.clips.collect import write_clips
from train.starter.distil import MILD, WIDE, Spread
from train.starter.examples import Example
from train.starter.manifests import write_manifests
from train.starter.measure import report
from train.starter.photos import gather_photos
from train.starter.pictures import features as picture_features
from train.starter.pictures.batches import TOKENS, StarterData
from train.starter.pictures.collect import write_manifest
from train.starter.sounds import batches as sound_batches
from train.starter.sounds import features as sound_features
from train.starter.sounds.batches import SoundData
from train.starter.sounds.collect import write_sounds
from train.starter.split import split_pictures

LM = LMConfig(
    "starter/smollm2-135m-instruct", hidden_size=576, embed_size=576, num_layers=30, model_type="llama"
)
INJECTION = InjectionConfig(start_layer_idx=10, end_layer_idx=30)


@dataclasses.dataclass(frozen=True)
class Stage:
    """A part of an adapter's training, with a checkpoint of its own."""

    name: str
    schedule: Schedule
    batch: int
    spread: Spread


@dataclasses.dataclass(frozen=True)
class Plan:
    """One adapter: what it is for, what its soft prompt starts from, and how it is trained.

    Attributes:
        starts_from: checkpoint whose connectors it starts from: what features mean is learned there.
    """

    task: TaskConfig
    encoder: EncoderConfig
    recipe: dict[str, Any]
    prompt: str
    stages: tuple[Stage, ...]
    starts_from: str | None = None

    @property
    def name(self) -> str:
        return f"{self.task.modality}-{self.task.name}"


PICTURES = EncoderConfig(picture_features.ENCODER, (-1,) * TOKENS, (1280,) * TOKENS)
CLIPS = EncoderConfig(clip_features.ENCODER, clip_batches.LAYERS, clip_batches.WIDTHS)
SOUNDS = EncoderConfig(sound_features.ENCODER, sound_batches.LAYERS, (1152,) * len(sound_batches.LAYERS))

PLANS = (
    Plan(
        examples.CAPTION,
        PICTURES,
        image.RECIPES["starter"].to_dict(),
        "Look at the photo. Say in a few words what it shows.",
        (
            Stage("caption-mild", Schedule(steps=1100, lr=3e-3, prompt_lr=3e-3), 48, MILD),
            Stage("caption-wide", Schedule(steps=350, lr=1.5e-3, prompt_lr=1e-3), 48, WIDE),
        ),
    ),
    Plan(
        examples.QA,
        PICTURES,
        image.RECIPES["starter"].to_dict(),
        "Look at the photo and answer the question in a few words.",
        (Stage("qa", Schedule(steps=300, lr=1e-3, prompt_lr=3e-3), 40, WIDE),),
        starts_from="caption-wide",
    ),
    Plan(
        clip_batches.CAPTION,
        CLIPS,
        video.RECIPES["starter"].to_dict(),
        "Look at the video. Say in a few words what it shows.",
        (Stage("video-caption", Schedule(steps=350, lr=2e-3, prompt_lr=2e-3), 40, WIDE),),
        starts_from="caption-wide",
    ),
    Plan(
        clip_batches.QA,
        CLIPS,
        video.RECIPES["starter"].to_dict(),
        "Look at the video and answer the question in a few words.",
        (Stage("video-qa", Schedule(steps=250, lr=1e-3, prompt_lr=2e-3), 40, WIDE),),
        starts_from="video-caption",
    ),
    Plan(
        sound_batches.CAPTION,
        SOUNDS,
        audio.RECIPES["starter"].to_dict(),
        "Listen to the recording. Say in a few words what you hear.",
        (
            Stage("audio-caption", Schedule(steps=450, lr=3e-3, prompt_lr=3e-3), 40, MILD),
            Stage("audio-caption-wide", Schedule(steps=150, lr=1.5e-3, prompt_lr=1e-3, warmup=20), 40, WIDE),
        ),
    ),
    Plan(
        sound_batches.QA,
        SOUNDS,
        audio.RECIPES["starter"].to_dict(),
        "Listen to the recording and answer the question in a few words.",
        (Stage("audio-qa", Schedule(steps=120, lr=1.5e-3, prompt_lr=3e-3, warmup=20), 40, WIDE),),
        starts_from="audio-caption-wide",
    ),
)


class Data(Protocol):
    """Features of one modality: what training draws from, and what is held out.

    Attributes:
        scales: (mean, std) of the feature of every token; training sees standardised ones.
    """

    scales: list[tuple[Tensor, Tensor]]

    def batches(self, text: TaskText, size: int, spread: Spread) -> Callable[[int], Batch]:
        """The batch of every step, a function of the step's number alone."""

    def held_out(self, task: str) -> tuple[list[Tensor], list[Example]]:
        """Standardised features of every token and the examples that belong to them."""


def training_lm() -> tuple[InjectedLM, PreTrainedTokenizerBase]:
    """The starter's LM for training: in bfloat16, with plain attention (faster than fused for 20 rows)."""
    lm, tokenizer = load_lm(LM, choose_device(), torch.bfloat16)
    lm.set_attn_implementation("eager")
    return InjectedLM(lm), tokenizer


def new_adapter(
    plan: Plan, lm: InjectedLM, tokenizer: PreTrainedTokenizerBase, injection: InjectionConfig = INJECTION
) -> Adapter:
    """An untrained adapter whose soft prompt starts as the embedding of a sentence."""
    words = tokenizer(plan.prompt)["input_ids"]
    config = AdapterConfig(
        lm=LM,
        encoder=plan.encoder,
        injection=injection,
        prompt=PromptConfig(len(words), mlp=False),
        task=plan.task,
        generation=GenerationConfig(num_beams=1, max_new_tokens=20),
        recipe=plan.recipe,
        description=f"Starter: {plan.task.modality} {plan.task.name} with SmolLM2-135M and {plan.encoder.id}",
    )
    torch.manual_seed(0)
    adapter = Adapter(config)
    embedded = lm.lm.get_input_embeddings()(torch.tensor(words, device=lm.device))
    adapter.prompt.embedding.weight.data.copy_(embedded.float())
    return adapter.to(lm.device)


def take_connectors(adapter: Adapter, checkpoint: Path) -> None:
    """Start from another adapter's connectors, as far as they have the same place and shape."""
    learned = torch.load(checkpoint, weights_only=True)["adapter"]
    own = adapter.state_dict()
    fitting = {
        key: value
        for key, value in learned.items()
        if key.startswith("connector.") and key in own and own[key].shape == value.shape
    }
    adapter.load_state_dict(fitting, strict=False)


def on_raw_features(adapter: Adapter, scales: Sequence[tuple[Tensor, Tensor]]) -> Adapter:
    """The same function of raw features: W (x - mean) / std + b is one linear map again."""
    raw = Adapter(adapter.config)
    raw.load_state_dict(adapter.state_dict())
    for connector, (mean, std) in zip(raw.connector, scales, strict=True):
        connector.weight.data /= std
        connector.bias.data -= connector.weight.data @ mean
    return raw


@torch.no_grad()
def held_out_loss(lm: InjectedLM, adapter: Adapter, data: Data, text: TaskText) -> tuple[float, float]:
    """Loss per token on held-out media, with their own features and with another one's."""
    features, examples = data.held_out(text.task.name)
    losses = []
    for shift in (0, len(examples) // 2):
        total = 0.0
        for part in range(0, len(examples), 64):
            rows = slice(part, part + 64)
            batch = make_batch([f.roll(shift, 0)[rows] for f in features], examples[rows], text)
            total += batch_loss(lm, adapter, batch).item() * len(examples[rows])
        losses.append(total / len(examples))
    return losses[0], losses[1]


def train_adapter(plan: Plan, data: Data, work: Path, out: Path) -> None:
    """Train one adapter through its stages and write its folder; goes on from its checkpoints."""
    lm, tokenizer = training_lm()
    text = TaskText(plan.task, tokenizer)
    adapter = new_adapter(plan, lm, tokenizer)
    if plan.starts_from is not None:
        take_connectors(adapter, work / f"{plan.starts_from}.checkpoint")
    for stage in plan.stages:

        def log(message: str, name: str = stage.name) -> None:
            print(f"{name}: {message}", flush=True)

        batches = data.batches(text, stage.batch, stage.spread)
        fit(lm, adapter, batches, stage.schedule, work / f"{stage.name}.checkpoint", log)
        own, other = held_out_loss(lm, adapter, data, text)
        log(f"held-out loss per token {own:.3f}, with another one's features {other:.3f}")
    metrics = {"held_out_loss": round(own, 4), "held_out_loss_other_media": round(other, 4)}
    raw = on_raw_features(adapter, data.scales)
    raw.config = dataclasses.replace(adapter.config, metrics=metrics)
    raw.half().save(out / plan.name)


def prepare(work: Path) -> dict[str, Data]:
    """Everything to train on, by modality; what is in the work folder is not made again."""
    if not (work / "manifest.jsonl").exists():
        write_manifest(work)
    if not (work / "features.safetensors").exists():
        picture_features.encode_pictures(work)
    if '"split"' not in (work / "manifest.jsonl").read_text():
        split_pictures(work)
    if not (work / "clips.jsonl").exists():
        write_clips(work)
    if not (work / "clips.safetensors").exists():
        clip_features.encode_clips(work)
    if not (work / "sounds.jsonl").exists():
        write_sounds(work)
    if not (work / "sounds.safetensors").exists():
        sound_features.encode_sounds(work)
    write_manifests(work)
    print(f"the media and their manifests are in {work}", flush=True)
    pictures = StarterData(work)
    return {"image": pictures, "video": ClipData(work, pictures), "audio": SoundData(work)}


def build(work: Path, out: Path | None, threads: int, data_only: bool) -> None:
    """All stages of the starter; each is skipped if its result is in the work folder.

    Args:
        out: folder of the adapters, `assets/starter` if None.
        threads: of the CPU; 0 = all.
        data_only: only what there is to train on; no adapter.
    """
    if threads:
        torch.set_num_threads(threads)
    out = out or STARTER
    work.mkdir(parents=True, exist_ok=True)
    if data_only:
        prepare(work)
        return
    photos = gather_photos(work)  # now, lest a package is missed after hours of training
    data = prepare(work)
    for plan in PLANS:
        train_adapter(plan, data[plan.task.modality], work, out)
    index = {"adapters": [plan.name for plan in PLANS]}
    (out / CONFIG).write_text(json.dumps(index, indent=2) + "\n")
    report(EPALM.from_pretrained(out), data, photos, out / "README.md")
