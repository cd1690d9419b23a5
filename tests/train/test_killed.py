"""Trainings and evaluations that are killed or stopped, in one process and in two."""

import os
import random
import shutil
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.helpers.trainings import command, kill, log_length, losses, run
from train.data.manifest import load_manifest, save_manifest


@pytest.mark.parametrize("processes", [1, 2])
def test_killed_at_any_moment_and_resumed_it_ends_the_same(gqa, tmp_path, processes):
    """Kill -9 again and again; two processes take half of every batch each."""
    out = tmp_path / "run"
    batch = f"optim.batch={4 // processes}"
    environment = os.environ | {"ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1"}
    fit = command("fit", gqa, "--resume", "--set", f"out={out}", "--set", batch, processes=processes)
    rng, kills = random.Random(processes), 0
    for _ in range(4):  # two are killed, one ends the training, and one is to spare
        if (out / "cost.json").exists():
            break
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
    assert (out / "cost.json").exists()
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


def test_ctrl_c_saves_and_says_how_to_go_on(gqa, tmp_path):
    out = tmp_path / "run"
    fit = command("fit", gqa, "--set", f"out={out}", "--set", "optim.epochs=500")
    process = subprocess.Popen(fit, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    while log_length(out) == 0 and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "continue with --resume" in said.decode()
    state = torch.load(out / "checkpoint.pt", weights_only=True)
    assert state["progress"]["step"] == len(losses(out))
