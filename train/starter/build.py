"""Train the starter's adapters on features that `train.starter` has prepared in a work folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from epalm.adapted import AdaptedLM
from epalm.adapter import CONFIG, Adapter
from epalm.config import AdapterConfig, FeatureLayer
from epalm.decoding import InjectedLM
from epalm.files import write_json
from epalm.hub.locate import STARTER
from epalm.model import EPALM
from epalm.text import TaskText
from train.batches import Batch, DrawnBatches, example_batch
from train.checkpoint import Checkpoint, identity_of
from train.fit import Verdict, fit, losses
from train.frozen import lm_config, load_frozen_lm, new_adapter
from train.machine import new_accelerator, pack_where_there_is_room
from train.regime import Regime, regime_of
from train.reports.readme import write_between
from train.starter.clips import features as clip_features
from train.starter.clips.batches import ClipData
from train.starter.clips.collect import TEST, TRAIN, write_clips
from train.starter.distil import Spread
from train.starter.examples import Example
from train.starter.manifests import write_manifests
from train.starter.measure import own_media
from train.starter.photos import gather_photos
from train.starter.pictures import features as picture_features
from train.starter.pictures.batches import StarterData
from train.starter.pictures.collect import write_manifest
from train.starter.pictures.composed import encode_composed
from train.starter.pictures.photos import encode_photos
from train.starter.plans import PLANS, Plan
from train.starter.report.command import real_media
from train.starter.report.dictionary import read_dictionary
from train.starter.scale import FULL, Scale, keep_to
from train.starter.sounds import features as sound_features
from train.starter.sounds.batches import SoundData
from train.starter.sounds.collect import write_sounds
from train.starter.split import split_pictures


class Data(Protocol):
    """Features of one modality: what training draws from, and what is held out.

    Attributes:
        scales: (mean, std) of a token's feature, by the encoder's layers that it is made of; training sees
            standardised ones.
    """

    scales: dict[FeatureLayer, tuple[Tensor, Tensor]]

    def batches(self, text: TaskText, size: int, spread: Spread) -> Callable[[int], Batch]:
        """The batch of every step, a function of the step's number alone."""

    def start(self, adapter: Adapter, lm: InjectedLM, tokenizer: PreTrainedTokenizerBase) -> None:
        """Set the adapter's connectors to linear maps that are computed, see `closed_form`."""

    def held_out(self, task: str) -> tuple[list[Tensor], list[Example]]:
        """Standardised features of every token and the examples that belong to them."""


def on_raw_features(adapter: Adapter, scales: Sequence[tuple[Tensor, Tensor]]) -> Adapter:
    """The same function of raw features: W (x - mean) / std + b is one linear map again."""
    raw = Adapter(adapter.config)
    raw.load_state_dict(adapter.state_dict())
    for connector, (mean, std) in zip(raw.connector, scales, strict=True):
        assert isinstance(connector, nn.Linear)
        connector.weight.data /= std
        connector.bias.data -= connector.weight.data @ mean
    return raw


@torch.no_grad()
def held_out_loss(model: AdaptedLM, regime: Regime, data: Data) -> tuple[float, float]:
    """Loss per token on held-out media, with their own features and with another one's."""
    features, examples = data.held_out(model.text.task.name)
    means = []
    for shift in (0, len(examples) // 2):
        total = 0.0
        for part in range(0, len(examples), 64):
            rows = slice(part, part + 64)
            batch = example_batch([f.roll(shift, 0)[rows] for f in features], examples[rows], model.text)
            total += losses(model, regime, batch).sum().item()
        means.append(total / len(examples))
    return means[0], means[1]


def train_adapter(plan: Plan, data: Data, work: Path, out: Path, scale: Scale = FULL) -> int:
    """Train one adapter through its stages and write its folder; goes on from its checkpoints.

    Args:
        scale: which part of its steps.
    Returns:
        0, or 130 if it was told to stop.
    """
    accelerator = new_accelerator(plan.settings)
    sizes = lm_config(plan.settings)
    lm, tokenizer = load_frozen_lm(plan.settings, sizes, str(accelerator.device))
    pack_where_there_is_room(lm.base)  # before the start is computed: that takes ten times as long without
    config = plan.settings.adapter_config(sizes, plan.widths)
    adapter = new_adapter(plan.settings, config, lm, tokenizer)
    data.start(adapter, lm, tokenizer)
    model = AdaptedLM(lm, adapter.to(lm.device), tokenizer)
    for stage in (stage.part(scale) for stage in plan.stages):
        settings = dataclasses.replace(stage.settings, out=str(work / stage.name))
        regime, size = regime_of(settings), settings.optim.batch
        source = DrawnBatches(data.batches(model.text, size, stage.spread), size, stage.steps)
        identity = identity_of(settings, steps=stage.steps, spread=str(stage.spread))

        def judge(regime: Regime = regime) -> Verdict:
            own, other = held_out_loss(model, regime, data)
            metrics = {"held_out_loss": own, "held_out_loss_other_media": other}
            return Verdict(metrics, -own, f"held-out loss {own:.3f}, with others' features {other:.3f}")

        checkpoint = Checkpoint.open(work / stage.name, identity, resume=True)
        if stopped := fit(settings, source, model, regime, checkpoint, judge, accelerator):
            return stopped
    raw = on_raw_features(adapter, [data.scales[layer] for layer in plan.settings.model.feature_layers])
    encoder = plan.settings.model.encoder
    made = f"Starter: {plan.task.modality} {plan.task.name} with SmolLM2-135M and {encoder}"
    metrics = AdapterConfig.load(Path(settings.out) / "best" / CONFIG).metrics
    raw.config = dataclasses.replace(adapter.config, description=made, metrics=metrics)
    raw.half().save(out / plan.name)
    return 0


def prepare(work: Path, public: Path | None = None, scale: Scale = FULL) -> dict[str, Data]:
    """Everything to train on, by modality; what is in the work folder is not made again.

    Args:
        public: folder of the public sets of real media, a folder each.
        scale: which part of all media.
    Raises:
        EPALMError: the work folder has another part of the media.
    """
    keep_to(work, scale)
    if not (work / "manifest.jsonl").exists():
        write_manifest(work, scale)
    picture_features.encode_pictures(work, scale.views(1 + picture_features.VIEWS) - 1)
    if '"split"' not in (work / "manifest.jsonl").read_text():
        split_pictures(work)
    if not (work / "composed.jsonl").exists():
        encode_composed(work, scale=scale)
    if not (work / "photo-features.jsonl").exists():
        encode_photos(work, public, scale=scale)
    if not (work / "clips.jsonl").exists():
        write_clips(work, scale.count(TRAIN), scale.count(TEST))
    if not (work / "clips.safetensors").exists():
        clip_features.encode_clips(work)
    if not (work / "photo-clips.jsonl").exists():
        clip_features.encode_photo_clips(work, public, scale=scale)
    if not (work / "sounds.jsonl").exists():
        write_sounds(work, public, scale)
    if not (work / "sounds.safetensors").exists():
        sound_features.encode_sounds(work, scale=scale)
    write_manifests(work)
    print(f"the media and their manifests are in {work}", flush=True)
    pictures = StarterData(work)
    return {"image": pictures, "video": ClipData(work, pictures), "audio": SoundData(work)}


def build(
    work: Path,
    out: Path | None,
    threads: int,
    data_only: bool,
    public: Path | None = None,
    scale: Scale = FULL,
) -> int:
    """All stages of the starter; each is skipped if its result is in the work folder.

    Returns 0, or 130 if a training was told to stop.

    Args:
        out: folder of the adapters, `assets/starter` if None.
        threads: of the CPU; 0 = all.
        data_only: only what there is to train on; no adapter.
        public: folder of the public sets of real media; what is not there is named and left out.
        scale: which part of all media and steps.
    """
    if threads:
        torch.set_num_threads(threads)
    out = out or STARTER
    work.mkdir(parents=True, exist_ok=True)
    if data_only:
        prepare(work, public, scale)
        return 0
    photos = gather_photos(work)  # now, lest a package is missed after hours of training
    read_dictionary(work)
    data = prepare(work, public, scale)
    for plan in PLANS:
        if stopped := train_adapter(plan, data[plan.task.modality], work, out, scale):
            return stopped
    write_json(out / CONFIG, {"adapters": [plan.name for plan in PLANS]}, indent=2)
    model = EPALM.from_pretrained(out)
    lines = real_media(model, public, work) if public else []
    write_between(out / "README.md", "measured", lines + own_media(model, data, photos))
    return 0
