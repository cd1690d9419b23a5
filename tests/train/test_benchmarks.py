"""Every benchmark from its official files to an adapter that the demo opens, with tiny models."""

import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import psutil
import pytest
import torch
import yaml
from transformers import ASTConfig, ASTModel

import app
from epalm import EPALM, EPALMError
from epalm.adapter import Adapter
from tests.helpers.tiny_benchmarks import write_tiny
from train.__main__ import main
from train.batches import limited
from train.data.benchmarks import DATASETS
from train.data.manifest import Item, load_manifest, save_manifest
from train.evaluate import partners
from train.regime import Corrected, Original, answers, make_optimizer, whole_texts
from train.run_folder import exclusive
from train.settings import Optim, load_settings

GOLDEN = Path(__file__).parents[1] / "golden" / "extras" / "lr_schedule.json"


@pytest.fixture(scope="session")
def tiny_ast(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("ast")
    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "num_attention_heads": 2, "intermediate_size": 24, "num_hidden_layers": 1}
    ASTModel(ASTConfig(**sizes, frequency_stride=16, time_stride=64)).save_pretrained(folder)
    return str(folder)


def run(*arguments: str | Path) -> int:
    """`python -m train` in this process."""

    with patch.object(sys, "argv", ["train", *map(str, arguments)]):
        return main()


def settings_for(name: str, folder: Path, lm_dir: Path, ast: str, **optim) -> Path:
    """The YAML file of a short training on a prepared tiny benchmark."""
    dataset = DATASETS[name]
    root = lm_dir.parent
    encoder, recipe = {
        "image": (str(root / "encoder"), "starter"),
        "video": (f"frames/{root / 'encoder'}", "starter"),
        "audio": (ast, "epalm-audio-16k"),
    }[dataset.modality]
    splits = {path.stem for path in (folder / "data").glob("*.jsonl")}
    val = "val" if "val" in splits else "karpathy_val"
    test = next(split for split in ("test", "testdev", val) if split in splits)
    content = {
        "model": {
            "lm": str(root / "lm"),
            "encoder": encoder,
            "recipe": recipe,
            "feature_layers": [-1, -1],
            "start_layer": 2,
            "end_layer": 6,
            "prompt_length": 3,
            "prompt_mlp": False,
        },
        "task": {
            "name": dataset.task,
            "modality": dataset.modality,
            "input": "the picture shows" if dataset.task == "caption" else "{question}",
            "output": " {text}",
        },
        "data": {
            "dataset": name,
            "train": str(folder / "data" / "train.jsonl"),
            "val": str(folder / "data" / f"{val}.jsonl"),
            "test": str(folder / "data" / f"{test}.jsonl"),
            "cache": str(folder / "cache"),
            "workers": 1,
        },
        "optim": {"epochs": 2, "batch": 4, "lr": 0.01, "prompt_lr": 0.01, **optim},
        "generation": {"max_new_tokens": 4},
        "out": str(folder / "run"),
        "paper": {},
    }
    path = folder / "settings.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def prepared(name: str, folder: Path) -> Path:
    write_tiny(name, folder / "official")
    assert run("prepare", name, "--source", folder / "official", "--out", folder / "data", "--no-check") == 0
    return folder


@pytest.mark.parametrize("name", DATASETS)
def test_from_official_files_to_the_demo(name, tmp_path, tiny_model_dir, tiny_ast, capsys):
    dataset = DATASETS[name]
    config = settings_for(name, prepared(name, tmp_path), tiny_model_dir, tiny_ast)
    assert run("features", config, "--device", "cpu", "--set", "data.draws=1") == 0
    assert run("fit", config, "--set", "data.draws=1") == 0
    assert run("evaluate", config, "--blind", "--text-only", "--no-java", "--set", "data.draws=1") == 0

    out = tmp_path / "run"
    result = json.loads((out / "metrics-test.json").read_text())
    first = dataset.metrics[0]
    assert result["metrics"].keys() >= {first}
    assert result["blind"].keys() == result["text_only"].keys() == result["metrics"].keys()
    items = load_manifest(Path(load_settings(config).data.test))
    rows = [json.loads(line) for line in (out / "predictions-test.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == [item.id for item in items]
    assert result["metrics"][first] == pytest.approx(sum(row["score"] for row in rows) / len(rows))

    model = EPALM.from_pretrained(out / "best", device="cpu")
    question = items[0].prompt
    media = items[0].media
    text = model.caption(media) if question is None else model.ask(media, question)
    assert text == rows[0]["prediction"]
    app.page(model, "")
    assert run("report", out) == 0
    assert first in (out / "report.html").read_text()


# Stopping and going on


def losses(out: Path) -> list[float]:
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if row["kind"] == "step"]


@pytest.fixture(scope="module")
def gqa(tmp_path_factory, tiny_model_dir) -> Path:
    """Settings of a training on tiny GQA, its features encoded."""
    folder = prepared("gqa", tmp_path_factory.mktemp("gqa"))
    config = settings_for("gqa", folder, tiny_model_dir, "", epochs=3, save_every=1)
    assert run("features", config, "--device", "cpu") == 0
    assert run("fit", config) == 0
    return config


def test_cached_features_and_the_encoder_give_the_same_training(gqa, tmp_path):
    out = tmp_path / "live"
    assert run("fit", gqa, "--set", "data.cache=null", "--set", f"out={out}") == 0
    torch.testing.assert_close(losses(out), losses(gqa.parent / "run"), rtol=1e-4, atol=1e-5)


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
    assert "go on with --resume" in capsys.readouterr().err


def test_going_on_with_other_settings_is_refused_by_name(gqa, capsys):
    assert run("fit", gqa, "--resume", "--set", "optim.lr=0.5") == 2
    assert "has optim.lr = 0.01, but now it is 0.5" in capsys.readouterr().err


def test_a_loss_that_is_no_number_stops_with_the_step_saved(gqa, tmp_path, capsys):
    out = tmp_path / "nan"
    assert run("fit", gqa, "--set", "optim.lr=1e30", "--set", "optim.clip=null", "--set", f"out={out}") == 2
    assert "lower optim.lr" in capsys.readouterr().err
    assert json.loads((out / "bad_step.json").read_text())["items"]


def test_evaluation_goes_on_after_a_torn_line(gqa, tmp_path):
    out = gqa.parent / "run"
    assert run("evaluate", gqa, "--no-java") == 0
    whole = (out / "predictions-test.jsonl").read_bytes()
    record = out / "predictions-test" / "0.jsonl"
    record.write_bytes(record.read_bytes()[:-7])
    (out / "predictions-test.jsonl").unlink()
    assert run("evaluate", gqa, "--no-java") == 0
    assert (out / "predictions-test.jsonl").read_bytes() == whole


def test_another_adapter_is_evaluated_afresh(gqa):
    out = gqa.parent / "run"
    assert run("evaluate", gqa, "--no-java") == 0
    before = (out / "predictions-test.jsonl").read_text()
    untrained = Adapter(Adapter.load(out / "best").config)
    untrained.save(gqa.parent / "untrained")
    assert run("evaluate", gqa, "--no-java", "--model", gqa.parent / "untrained") == 0
    assert (out / "predictions-test.jsonl").read_text() != before


def test_features_that_are_not_encoded_are_asked_for(gqa, tmp_path, capsys):
    assert run("fit", gqa, "--set", f"data.cache={tmp_path}", "--set", f"out={tmp_path / 'run'}") == 2
    assert "python -m train features" in capsys.readouterr().err


def test_the_blind_baseline_shows_other_media_at_random():
    """Also where the items come in a fixed order, so that a shift would meet the same answer again."""
    items = [Item(str(i), f"{i // 2}.jpg", "?", (str(i % 10),)) for i in range(2000)]
    others = partners(items)
    assert all(item.media != other.media for item, other in zip(items, others, strict=True))
    same = sum(item.answers == other.answers for item, other in zip(items, others, strict=True))
    assert same / 2000 == pytest.approx(0.1, abs=0.03)
    with pytest.raises(EPALMError, match="different media"):
        partners(items[:2])


def test_evaluation_decodes_as_the_settings_say(gqa, tmp_path):
    lengths = []
    for tokens in (1, 4):
        changes = (f"out={tmp_path}", f"generation.max_new_tokens={tokens}")
        best = gqa.parent / "run" / "best"
        assert run("evaluate", gqa, "--no-java", "--model", best, *(f"--set={c}" for c in changes)) == 0
        rows = map(json.loads, (tmp_path / "predictions-test.jsonl").read_text().splitlines())
        lengths.append(sum(len(row["prediction"].split()) for row in rows))
    assert lengths[0] < lengths[1]


@pytest.mark.parametrize(
    ("change", "said"),
    [("task.input=What? {question}", "the task"), ("model.recipe=epalm", "the preprocessing")],
)
def test_an_adapter_for_something_else_is_not_evaluated(gqa, capsys, change, said):
    assert run("evaluate", gqa, "--set", change, "--set", "data.cache=null") == 2
    assert f"was trained with {said}" in capsys.readouterr().err


def test_scores_are_broken_down_by_group_and_missing_without_answers(gqa, tmp_path):
    items = load_manifest(gqa.parent / "data" / "val.jsonl")
    out, best = tmp_path / "run", gqa.parent / "run" / "best"
    grouped = [replace(item, group={"kind": "ab"[i % 2]}) for i, item in enumerate(items)]
    for name, changed in (("grouped", grouped), ("bare", [replace(item, answers=()) for item in items])):
        save_manifest(changed, tmp_path / f"{name}.jsonl")
        place = ("--set", f"out={out}", "--set", f"data.test={tmp_path / name}.jsonl")
        assert run("evaluate", gqa, "--no-java", "--model", best, *place) == 0
        found = json.loads((out / "metrics-test.json").read_text())
        if name == "grouped":
            groups = found["groups"]["kind"]
            assert (groups["a"] + groups["b"]) / 2 == pytest.approx(found["metrics"]["exact match"])
        else:
            assert found["metrics"] == {} and "no answers" in found["absent"]["exact match"]
            assert len((out / "predictions-test.jsonl").read_text().splitlines()) == len(items)


def test_a_training_refuses_items_without_answers(gqa, tmp_path, capsys):
    items = load_manifest(gqa.parent / "data" / "val.jsonl")
    save_manifest([*items[1:], replace(items[0], answers=())], tmp_path / "bare.jsonl")
    out = tmp_path / "run"
    assert run("fit", gqa, "--set", f"out={out}", "--set", f"data.val={tmp_path / 'bare.jsonl'}") == 2
    assert f"items of data.val have no answers, for example '{items[0].id}'" in capsys.readouterr().err


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


def test_two_commands_do_not_work_in_one_run_folder(gqa, tmp_path, capsys):
    with exclusive(tmp_path):
        assert run("fit", gqa, "--set", f"out={tmp_path}") == 2
    assert "Another command is working in" in capsys.readouterr().err
    assert not (tmp_path / "log.jsonl").exists()


def test_half_precision_that_needs_a_gpu_is_refused_without_one(gqa, tmp_path, capsys):
    assert run("fit", gqa, "--set", "optim.precision=fp16", "--set", f"out={tmp_path}") == 2
    assert "needs a GPU" in capsys.readouterr().err


def test_training_on_a_cache_needs_no_encoder(gqa, tmp_path, monkeypatch):
    def absent(*arguments):
        raise AssertionError("the encoder was loaded")

    monkeypatch.setattr("train.training.load_frozen_encoder", absent)
    assert run("fit", gqa, "--set", f"out={tmp_path}", "--set", "optim.epochs=1") == 0


# Settings


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("optim.lr=0", "optim.lr must be above 0"),
        ("evaluation.batch=0", "evaluation.batch must be at least 1"),
        ("evaluation.limit=-5", "evaluation.limit must be at least 1"),
        ("data.draws=-1", "data.draws must be at least 0"),
        ("data.workers=0", "data.workers must be at least 1"),
        ("model.prompt_length=-1", "model.prompt_length must be at least 0"),
        ("optim.warmup=15", "optim.warmup is 15, but it is the share of the steps in which the rates rise"),
        ("optim.warmup=0.6", "at most 0.5"),
        ("optim.warmup_blocks=4", "optim.warmup_blocks is for reference: true"),
    ],
)
def test_numbers_out_of_range_are_refused_before_anything_is_loaded(gqa, change, said):
    with pytest.raises(EPALMError, match=said):
        load_settings(gqa, [change])


def test_an_unknown_setting_names_the_closest(gqa, capsys):
    assert run("fit", gqa, "--set", "optim.learning_rate=1") == 2
    assert "unknown key 'learning_rate'" in capsys.readouterr().err
    with pytest.raises(EPALMError, match="closest valid key is 'batch'"):
        load_settings(gqa, ["optim.bach=1"])


def test_a_value_of_another_type_is_refused(gqa):
    with pytest.raises(EPALMError, match="'epochs' must be of type int"):
        load_settings(gqa, ["optim.epochs=many"])


@pytest.mark.parametrize(("text", "value"), [("2e-5", 2e-5), ("1.5E3", 1500.0), (".5", 0.5), ("3", 3.0)])
def test_numbers_are_numbers_with_an_exponent_too(gqa, text, value):
    assert load_settings(gqa, [f"optim.lr={text}"]).optim.lr == value


def test_no_is_a_word(gqa):
    assert load_settings(gqa, ["optim.precision=no"]).optim.precision == "no"


def test_limited_items_are_the_same_and_nested():
    items = [Item(str(i), "x", None, ("a",)) for i in range(200)]
    small, large = limited(items, 0.1, 0), limited(items, 0.5, 0)
    assert len(small) == 20 and small == limited(items, 0.1, 0)
    assert {item.id for item in small} < {item.id for item in large}


def test_a_tracker_without_its_package_is_refused_before_anything_is_loaded(gqa, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # as if it were not installed
    assert run("fit", gqa, "--set", "trackers=[wandb]") == 2
    assert "pip install wandb" in capsys.readouterr().err


# The optimizer


def adapter_of(tiny_model_dir: Path) -> torch.nn.Module:
    model = EPALM.from_pretrained(tiny_model_dir, device="cpu")
    return model.adapters["image-caption"]


def optim_of(recorded: dict) -> Optim:
    schedule, lr = recorded["schedular"], recorded["optimizer"]
    return Optim(
        epochs=schedule["epochs"],
        batch=1,
        lr=lr["lr"],
        prompt_lr=lr.get("prompt_lr", 0.0),
        min_lr=schedule["min_lr"],
        warmup_lr=schedule["warmup_lr"],
        warmup_blocks=schedule["warmup_epochs"],
    )


RECORDED = json.loads(GOLDEN.read_text())


@pytest.mark.parametrize("name", RECORDED)
def test_reference_learning_rates_equal_the_recorded_ones(name, tiny_model_dir):
    recorded = RECORDED[name]
    optim = optim_of(recorded)
    task = "qa" if name.startswith("qa") else "caption"
    regime = Original(optim, task)
    groups = regime.groups(adapter_of(tiny_model_dir))
    per_epoch = recorded["iterations_per_epoch"]
    for row in recorded["trace"]:
        step = row["epoch"] * per_epoch + row["from_iteration"]
        rates = regime.rates(groups, step, per_epoch)
        assert rates == pytest.approx(row["lr"], rel=1e-9)


def test_the_default_warms_both_rates_up_and_lowers_them(tiny_model_dir):
    optim = Optim(epochs=2, batch=1, lr=1e-3, prompt_lr=1e-2, warmup=0.2, min_lr=1e-4)
    regime = Corrected(optim, "caption")
    groups = regime.groups(adapter_of(tiny_model_dir))
    rates = [regime.rates(groups, step, 10) for step in range(20)]
    by_name = {group.names[0].split(".")[0]: [rate[i] for rate in rates] for i, group in enumerate(groups)}
    assert by_name["connector"][:4] == pytest.approx([2.5e-4, 5e-4, 7.5e-4, 1e-3])
    assert by_name["prompt"][3] == pytest.approx(1e-2)
    middle = 1e-4 + 0.5 * (1e-3 - 1e-4) * (1 + math.cos(math.pi * 8 / 16))
    assert by_name["connector"][12] == pytest.approx(middle)
    decays = {group.names[0].rsplit(".", 1)[1]: group.weight_decay for group in groups}
    assert decays["bias"] == 0 < decays["weight"]


def test_every_trained_parameter_is_in_one_group(tiny_model_dir):
    module = adapter_of(tiny_model_dir)
    trained = sorted(name for name, p in module.named_parameters() if p.requires_grad)
    for task in ("caption", "qa"):
        for regime in (Original, Corrected):
            groups = regime(Optim(1, 1, 1e-3, 1e-3), task).groups(module)
            assert sorted(name for group in groups for name in group.names) == trained
            assert len(make_optimizer(module, groups).param_groups) == len(groups)


# Texts


def test_answers_are_drawn_as_often_as_people_gave_them():
    item = Item("1", "x", "?", ("pizza",) * 5 + ("food",) + ("cheese",) * 2)
    rng, optim = random.Random(0), Optim(1, 1, 1e-3, 1e-3)
    drawn = [Corrected(optim, "qa").answer(item, rng) for _ in range(4000)]
    assert drawn.count("pizza") / 4000 == pytest.approx(5 / 8, abs=0.03)
    original = [Original(optim, "qa").answer(item, rng) for _ in range(4000)]
    assert original.count("pizza") / 4000 == pytest.approx(1 / (1 + 0.3 + 0.6), abs=0.03)


def test_only_the_answer_is_learned_but_in_reference_mode_all_of_the_text(tiny_model_dir):
    text = EPALM.from_pretrained(tiny_model_dir, device="cpu").texts["image-qa"]
    pairs = [text.training_text("what is this?", "a dog"), text.training_text("what?", "a cat on a sofa")]
    ids, mask, labels = answers(pairs, text)
    start = len(text.ids(""))
    for row, (_, after) in enumerate(pairs):
        assert labels[row][labels[row] != -100].tolist() == text.ids(after)[start:]
        assert mask[row, -1] == 1  # padded on the left
    ids, mask, labels = whole_texts(pairs, text)
    assert torch.equal(labels == -100, mask == 0)
    assert mask[0, 0] == 1  # padded on the right
    assert ids[1].tolist() == text.ids("".join(pairs[1]))


# Processes


def command(*arguments: str | Path, processes: int = 1) -> list[str]:
    """`python -m train` in processes of its own."""
    start = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}", "-m"]
    return [*(start if processes > 1 else [sys.executable, "-m"]), "train", *map(str, arguments)]


def kill(process: subprocess.Popen) -> None:
    """Kill -9 of a command and of the processes that it started, each of which has a session of its own."""
    started = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for one in started:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    psutil.wait_procs(started[1:])


@pytest.mark.parametrize("processes", [1, 2])
def test_killed_at_any_moment_and_resumed_it_ends_the_same(gqa, tmp_path, processes):
    """Kill -9 again and again; two processes take half of every batch each."""
    out = tmp_path / "run"
    batch = f"optim.batch={4 // processes}"
    environment = os.environ | {"ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1"}
    fit = command("fit", gqa, "--resume", "--set", f"out={out}", "--set", batch, processes=processes)
    rng, kills = random.Random(processes), 0
    while not (out / "cost.json").exists():
        process = subprocess.Popen(fit, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        before = log_length(out)
        while process.poll() is None and kills < 2:
            if log_length(out) > before:  # some steps were taken
                time.sleep(rng.uniform(0, 0.1))
                kill(process)
                kills += 1
                break
            time.sleep(0.01)
        _, problem = process.communicate()
        assert process.returncode in (0, -signal.SIGKILL), problem.decode()[-2000:]
    torch.testing.assert_close(losses(out), losses(gqa.parent / "run"), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("processes", [1, 2])
def test_an_evaluation_killed_at_any_moment_and_run_again_ends_the_same(gqa, tmp_path, processes):
    items = load_manifest(gqa.parent / "data" / "val.jsonl")
    many = [replace(item, id=f"{item.id}-{copy}") for item in items for copy in range(50)]
    save_manifest(many, tmp_path / "many.jsonl")
    out = tmp_path / "run"
    (out / "best").parent.mkdir()
    (out / "best").symlink_to(gqa.parent / "run" / "best")
    changes = [f"out={out}", f"data.test={tmp_path / 'many.jsonl'}"]
    arguments = [gqa, "--no-java", "--batch=1", *(f"--set={change}" for change in changes)]
    assert run("evaluate", *arguments) == 0
    predictions, metrics = out / "predictions-test.jsonl", out / "metrics-test.json"
    whole = predictions.read_bytes(), metrics.read_bytes()

    shutil.rmtree(out / "predictions-test")
    predictions.unlink()
    environment = os.environ | {"ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1"}
    rng, kept = random.Random(processes), [0]
    while not predictions.exists():
        process = subprocess.Popen(
            command("evaluate", *arguments, processes=processes),
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        while process.poll() is None and len(kept) < 3:
            if recorded(out) > kept[-1]:  # some items were predicted
                time.sleep(rng.uniform(0, 0.2))
                kill(process)
                kept.append(recorded(out))
                break
            time.sleep(0.01)
        _, problem = process.communicate()
        assert process.returncode in (0, -signal.SIGKILL), problem.decode()[-2000:]
    assert 0 < kept[1] < kept[2] < len(many)
    assert (predictions.read_bytes(), metrics.read_bytes()) == whole


def recorded(out: Path) -> int:
    """Predictions that are kept."""
    return sum(path.read_bytes().count(b"\n") for path in (out / "predictions-test").glob("*.jsonl"))


def log_length(out: Path) -> int:
    log = out / "log.jsonl"
    return log.stat().st_size if log.exists() else 0


def test_ctrl_c_saves_and_says_how_to_go_on(gqa, tmp_path):
    out = tmp_path / "run"
    fit = command("fit", gqa, "--set", f"out={out}", "--set", "optim.epochs=500")
    process = subprocess.Popen(fit, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    while log_length(out) == 0 and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "go on with --resume" in said.decode()
    state = torch.load(out / "checkpoint.pt", weights_only=True)
    assert state["progress"]["step"] == len(losses(out))
