"""`python -m train fit`: what it refuses, how it goes on, and what it starts from."""

import json
import math
import shutil
import sys
from dataclasses import replace

import pytest
import torch

from epalm.adapter import Adapter
from epalm.config import AdapterConfig
from tests.helpers.trainings import losses, run
from train.batches import limited
from train.data.manifest import Item, load_manifest, save_manifest
from train.features.shards import cached_widths
from train.features.source import LiveFeatures
from train.frozen import lm_config, load_frozen_encoder, load_frozen_lm, new_adapter
from train.run_folder import exclusive
from train.settings import load_settings
from train.usable import refuse_unusable


def test_cached_features_and_the_encoder_give_the_same_training(gqa, tmp_path):
    out = tmp_path / "live"
    assert run("fit", gqa, "--set", "data.cache=null", "--set", f"out={out}") == 0
    torch.testing.assert_close(losses(out), losses(gqa.parent / "run"), rtol=1e-4, atol=1e-5)


def test_files_are_read_while_a_step_computes(gqa):
    """Asked for ahead, a view is the same, and is read once, however often it is in the batch."""
    settings = load_settings(gqa, ["data.cache=null", "data.workers=2"])
    items, encoder = settings.items("train")[:3], load_frozen_encoder(settings, "cpu")
    config = AdapterConfig.load(gqa.parent / "run" / "last" / "config.json")
    plain, ahead = (LiveFeatures(settings, config, encoder) for _ in range(2))
    reads, read = [], ahead.read
    ahead.read = lambda item, draw: reads.append(item.id) or read(item, draw)
    ahead.ahead(items, [0] * 3)
    for ours, theirs in zip(
        ahead([*items, items[0]], [0] * 4), plain([*items, items[0]], [0] * 4), strict=True
    ):
        assert torch.equal(ours, theirs)
    assert sorted(reads) == sorted(item.id for item in items)


def test_accumulation_and_batch_give_the_same_steps(gqa, tmp_path):
    out = tmp_path / "accumulated"
    halves = ("--set", "optim.batch=2", "--set", "optim.accumulate=2")
    assert run("fit", gqa, *halves, "--set", f"out={out}") == 0
    torch.testing.assert_close(losses(out), losses(gqa.parent / "run"), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("last", [1, 2, 3, 4])
def test_a_killed_training_goes_on_as_if_nothing_had_happened(gqa, tmp_path, last, monkeypatch):
    from train import fit

    out = tmp_path / "killed"
    original, calls = fit.Loop.step, []

    def dying(self, step):
        calls.append(step)
        if len(calls) > last:
            raise RuntimeError("killed")
        return original(self, step)

    monkeypatch.setattr(fit.Loop, "step", dying)
    with pytest.raises(RuntimeError, match="killed"):
        run("fit", gqa, "--set", f"out={out}")
    monkeypatch.setattr(fit.Loop, "step", original)
    assert run("fit", gqa, "--resume", "--set", f"out={out}") == 0
    whole = gqa.parent / "run"
    assert losses(out) == losses(whole)
    for part in ("best", "last"):
        weights = "adapter.safetensors"
        assert (out / part / weights).read_bytes() == (whole / part / weights).read_bytes()


def test_a_training_is_not_overwritten_by_accident(gqa, capsys):
    assert run("fit", gqa) == 2
    assert "continue it with --resume" in capsys.readouterr().err


def test_going_on_with_other_settings_is_refused_by_name(gqa, capsys):
    assert run("fit", gqa, "--resume", "--set", "optim.lr=0.5") == 2
    assert "has optim.lr = 0.01, but now it is 0.5" in capsys.readouterr().err


def test_a_loss_that_is_no_number_stops_with_the_step_saved(gqa, tmp_path, capsys):
    out = tmp_path / "nan"
    assert run("fit", gqa, "--set", "optim.lr=1e30", "--set", "optim.clip=null", "--set", f"out={out}") == 2
    assert "lower optim.lr" in capsys.readouterr().err
    assert json.loads((out / "bad_step.json").read_text())["items"]


def test_features_that_are_not_encoded_are_asked_for(gqa, tmp_path, capsys):
    assert run("fit", gqa, "--set", f"data.cache={tmp_path}", "--set", f"out={tmp_path / 'run'}") == 2
    assert "python -m train features" in capsys.readouterr().err


def test_a_training_refuses_items_without_answers(gqa, tmp_path, capsys):
    items = load_manifest(gqa.parent / "data" / "val.jsonl")
    save_manifest([*items[1:], replace(items[0], answers=())], tmp_path / "bare.jsonl")
    out = tmp_path / "run"
    assert run("fit", gqa, "--set", f"out={out}", "--set", f"data.val={tmp_path / 'bare.jsonl'}") == 2
    assert f"items of data.val have no answers, for example '{items[0].id}'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("question", "said"),
    [("what " * 300, "has 1499 characters; please ask in at most 1000"), (" ", "empty"), (None, "empty")],
)
@pytest.mark.parametrize("place", ["data.train", "data.val", "data.more", "data.test"])
def test_a_question_that_cannot_be_asked_is_refused_before_anything_is_loaded(
    gqa, tmp_path, capsys, monkeypatch, place, question, said
):
    """It would be met in the middle of the training: at the item's turn, or at the first validation."""
    for module in ("training", "evaluate"):
        monkeypatch.setattr(f"train.{module}.load_frozen_lm", lambda *_: pytest.fail("a model was loaded"))
    items, bad = load_manifest(gqa.parent / "data" / "train.jsonl"), tmp_path / "bad.jsonl"
    save_manifest([*items[1:], replace(items[0], prompt=question)], bad)
    value = json.dumps([{"train": str(bad)}] if place == "data.more" else str(bad))
    changes = ("--set", f"out={tmp_path}", "--set", f"{place}={value}")
    model = ("--model", gqa.parent / "run" / "best")
    assert run(*(("evaluate", gqa, *model) if place == "data.test" else ("fit", gqa)), *changes) == 2
    err, name = capsys.readouterr().err, bad if place == "data.more" else place
    assert f"The item {items[0].id!r} of {name} cannot be asked about: The question " in err and said in err


def test_captions_need_no_question(gqa):
    task = replace(load_settings(gqa).task, name="caption", input="a")
    refuse_unusable("data.train", [Item("1", "x", None, ("a dog",))], task)


def test_going_on_with_other_items_is_refused_but_with_smaller_batches_it_is_the_same(gqa, tmp_path, capsys):
    out = tmp_path / "run"
    shutil.copytree(gqa.parent / "run", out)
    place = ("--resume", "--set", f"out={out}")
    assert run("fit", gqa, *place, "--set", "optim.batch=2", "--set", "optim.accumulate=2") == 0
    assert run("fit", gqa, *place, "--set", "optim.batch=2") == 2
    assert "items per step (batch x accumulate x processes) = 4, but now it is 2" in capsys.readouterr().err
    fewer = load_manifest(gqa.parent / "data" / "train.jsonl")[1:]
    save_manifest(fewer, tmp_path / "fewer.jsonl")
    assert run("fit", gqa, *place, "--set", f"data.train={tmp_path / 'fewer.jsonl'}") == 2
    assert "data.train = " in capsys.readouterr().err


def test_a_damaged_checkpoint_is_named(gqa, tmp_path, capsys):
    (tmp_path / "checkpoint.pt").write_bytes(b"torn")
    assert run("fit", gqa, "--resume", "--set", f"out={tmp_path}") == 2
    assert "checkpoint.pt is damaged" in capsys.readouterr().err


@pytest.mark.parametrize("resume", [[], ["--resume"]])
@pytest.mark.parametrize(
    "content",
    [[1, 2], {"weight": torch.zeros(2)}, {"progress": {}, "settings": {}}, {"progress": 3, "settings": {}}],
)
def test_a_checkpoint_of_another_kind_is_named(gqa, tmp_path, capsys, content, resume):
    torch.save(content, tmp_path / "checkpoint.pt")
    assert run("fit", gqa, *resume, "--set", f"out={tmp_path}") == 2
    said = f"{tmp_path / 'checkpoint.pt'} is not the checkpoint of a training: move it elsewhere"
    assert capsys.readouterr().err.splitlines()[-1].startswith(said)


def test_two_commands_do_not_work_in_one_run_folder(gqa, tmp_path, capsys):
    with exclusive(tmp_path):
        assert run("fit", gqa, "--set", f"out={tmp_path}") == 2
    assert "Another command is using" in capsys.readouterr().err
    assert not (tmp_path / "log.jsonl").exists()


def test_half_precision_that_needs_a_gpu_is_refused_without_one(gqa, tmp_path, capsys):
    assert run("fit", gqa, "--set", "optim.precision=fp16", "--set", f"out={tmp_path}") == 2
    assert "needs a GPU" in capsys.readouterr().err


def test_training_on_a_cache_needs_no_encoder(gqa, tmp_path, monkeypatch):
    def absent(*arguments):
        raise AssertionError("the encoder was loaded")

    monkeypatch.setattr("train.training.load_frozen_encoder", absent)
    assert run("fit", gqa, "--set", f"out={tmp_path}", "--set", "optim.epochs=1") == 0


def test_limited_items_are_the_same_and_nested():
    items = [Item(str(i), "x", None, ("a",)) for i in range(200)]
    small, large = limited(items, 0.1, 0), limited(items, 0.5, 0)
    assert len(small) == 20 and small == limited(items, 0.1, 0)
    assert {item.id for item in small} < {item.id for item in large}


def test_a_tracker_without_its_package_is_refused_before_anything_is_loaded(gqa, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # as if it were not installed
    assert run("fit", gqa, "--set", "trackers=[wandb]") == 2
    assert "pip install wandb" in capsys.readouterr().err


# What a training starts from, learns next to its own data, and when it ends


@pytest.mark.parametrize("start", ["run", "run/best"])
def test_it_starts_from_another_adapter(gqa, tmp_path, capsys, start):
    """A run folder stands for its last/ adapter."""
    out, found = tmp_path / "run", gqa.parent / start
    changes = ("--set", f"init_from={found}", "--set", f"out={out}", "--set", "optim.lr=1e-9")
    assert run("fit", gqa, *changes, "--set", "optim.prompt_lr=1e-9") == 0
    assert f"Starting from {found}." in capsys.readouterr().err
    before = Adapter.load(found if start.endswith("best") else found / "last").state_dict()
    for name, value in Adapter.load(out / "last").state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=1e-6)


def test_parts_of_another_shape_are_new(gqa, tmp_path, capsys):
    changes = ("--set", f"init_from={gqa.parent / 'run'}", "--set", "model.prompt_length=5")
    assert run("fit", gqa, *changes, "--set", f"out={tmp_path}", "--set", "optim.epochs=1") == 0
    assert "newly initialised: prompt.embedding." in capsys.readouterr().err


def test_an_adapter_for_another_language_model_is_no_start(gqa, tmp_path, capsys):
    assert run("fit", gqa, "--set", "init_from=starter/image-qa", "--set", f"out={tmp_path}") == 2
    assert "init_from: starter/image-qa was trained with the language model starter/smollm2" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("start", "said"),
    [
        ("starter", "starter has several adapters: name one of starter/"),
        ("starter/image-capture", "starter/image-capture has several adapters: name one of starter/"),
        ("nowhere", "'nowhere' is "),
    ],
)
def test_a_start_that_is_not_one_adapter_is_refused(gqa, tmp_path, capsys, start, said):
    assert run("fit", gqa, "--set", f"init_from={start}", "--set", f"out={tmp_path}") == 2
    assert said in capsys.readouterr().err


def test_two_tasks_are_learned_at_once(gqa, tmp_path):
    """Captions next to questions: a caption's text is trained as its own task says."""
    items = load_manifest(gqa.parent / "data" / "train.jsonl")
    captions = [replace(item, prompt=None, answers=("a thing",)) for item in items]
    save_manifest(captions, tmp_path / "captions.jsonl")
    more = {
        "train": str(tmp_path / "captions.jsonl"),
        "weight": 0.5,
        "task": {"name": "caption", "modality": "image", "input": "this is", "output": " {text}"},
    }
    place = ("--set", f"out={tmp_path / 'run'}", "--set", f"data.more=[{json.dumps(more)}]")
    assert run("fit", gqa, *place, "--set", "optim.epochs=1") == 0
    cost = json.loads((tmp_path / "run" / "cost.json").read_text())
    assert cost["samples"] == len(items) + round(len(items) / 2)


def test_the_validation_loss_is_logged_next_to_the_metrics(gqa):
    rows = [json.loads(line) for line in (gqa.parent / "run" / "log.jsonl").read_text().splitlines()]
    epochs = [row for row in rows if row["kind"] == "epoch"]
    assert len(epochs) == 3
    assert all(0 < row["loss"] < math.inf and "exact match" in row["metrics"] for row in epochs)


def test_a_deep_prompt_learns_in_every_layer_in_units_of_its_states(gqa, tmp_path):
    out = tmp_path / "deep"
    assert run("fit", gqa, "--set", "model.prompt_deep_from=3", "--set", f"out={out}") == 0
    prompt = Adapter.load(out / "last").prompt
    assert prompt is not None and prompt.deep is not None and prompt.deep.shape[:2] == (3, 3)
    assert (prompt.deep.abs().amax((1, 2)) > 0).all()

    settings = load_settings(gqa, ["model.prompt_deep_from=3"])
    lm, tokenizer = load_frozen_lm(settings, lm_config(settings), "cpu")
    fresh = new_adapter(settings, AdapterConfig.load(out / "last" / "config.json"), lm, tokenizer).prompt
    assert fresh is not None and fresh.deep is not None and not fresh.deep.any()
    rows = fresh.embedding.weight.detach()
    states = lm.base(inputs_embeds=rows[None], output_hidden_states=True).hidden_states
    size = [state[0, 1:].pow(2).mean(-1).sqrt().median() for state in (rows[None], *states[3:6])]
    torch.testing.assert_close(fresh.deep_unit, torch.stack(size[1:]) / size[0])
    assert torch.equal(prompt.deep_unit, fresh.deep_unit)


def test_a_deep_prompt_of_one_row_has_units_too(gqa):
    settings = load_settings(gqa, ["model.prompt_deep_from=3", "model.prompt_length=1"])
    lm, tokenizer = load_frozen_lm(settings, lm_config(settings), "cpu")
    widths = cached_widths(gqa.parent / "cache")
    prompt = new_adapter(settings, settings.adapter_config(lm_config(settings), widths), lm, tokenizer).prompt
    assert prompt is not None and prompt.deep_unit.isfinite().all() and (prompt.deep_unit > 0).all()
