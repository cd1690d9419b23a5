"""How an adapter of the starter is trained: stage after stage, on features, to a folder of its own."""

import json
from pathlib import Path

import pytest
import torch

from epalm.adapter import Adapter
from tests.helpers.starter_work import full
from train.starter import plans
from train.starter.build import on_raw_features, train_adapter
from train.starter.distil import PHOTOS
from train.starter.examples import CAPTION
from train.starter.pictures.batches import LAYERS, WIDTHS, StarterData
from train.starter.pictures.features import ENCODER
from train.starter.scale import Scale

SCALE = Scale(steps=0.1)


@pytest.fixture
def plan(monkeypatch, tiny_model_dir) -> plans.Plan:
    """Two stages of four steps each, at a tenth of their length."""
    lm = json.loads((tiny_model_dir / "image-caption" / "config.json").read_text())["lm"]["id"]
    monkeypatch.setattr(plans, "LM", lm)
    model = plans.shape(ENCODER, LAYERS["caption"], "the photo", 2, 1, 5)
    stages = [
        plans.stage(name, CAPTION, model, PHOTOS, 40, 4, rate, 2e-3, warmup=4)
        for name, rate in (("first", 1e-3), ("second", 5e-4))
    ]
    return plans.Plan(WIDTHS, tuple(stages))


@pytest.fixture
def data(tmp_path) -> StarterData:
    work = tmp_path / "data"
    work.mkdir()
    return StarterData(full(work))


def steps_of(folder: Path) -> list[int]:
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [row["step"] for row in rows if row["kind"] == "step"]


def test_a_training_that_was_killed_in_its_second_stage_goes_on(plan, data, tmp_path, monkeypatch):
    assert train_adapter(plan, data, tmp_path / "whole", tmp_path / "whole-out", SCALE) == 0
    draw, drawn = data.batches, []

    def until_killed(text, size, spread):
        batches = draw(text, size, spread)

        def batch(step):
            drawn.append(step)
            if len(drawn) == 4 + 3:
                raise SystemExit("killed")
            return batches(step)

        return batch

    monkeypatch.setattr(data, "batches", until_killed)
    with pytest.raises(SystemExit):
        train_adapter(plan, data, tmp_path / "cut", tmp_path / "cut-out", SCALE)
    assert not (tmp_path / "cut-out").exists()
    monkeypatch.setattr(data, "batches", draw)
    assert train_adapter(plan, data, tmp_path / "cut", tmp_path / "cut-out", SCALE) == 0
    for stage in ("first", "second"):
        assert steps_of(tmp_path / "cut" / stage) == [1, 2, 3, 4]
    whole, cut = (Adapter.load(tmp_path / f"{name}-out" / plan.name) for name in ("whole", "cut"))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), cut.parameters(), strict=True))
    assert whole.config.metrics.keys() == {"held_out_loss", "held_out_loss_other_media"}


def test_what_is_written_reads_raw_features(plan, data, tmp_path):
    assert train_adapter(plan, data, tmp_path, tmp_path / "out", SCALE) == 0
    trained, written = Adapter.load(tmp_path / "second" / "last"), Adapter.load(tmp_path / "out" / plan.name)
    scales = [data.scales[layer] for layer in LAYERS["caption"]]
    raw = [torch.rand(3, len(mean)) for mean, _ in scales]
    seen = [(f - mean) / std for f, (mean, std) in zip(raw, scales, strict=True)]
    torch.testing.assert_close(
        on_raw_features(trained, scales).tokens(raw), trained.tokens(seen), atol=1e-3, rtol=1e-3
    )
    torch.testing.assert_close(written.float().tokens(raw), trained.tokens(seen), atol=0.05, rtol=0.05)
