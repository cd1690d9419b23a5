"""Trainings with tiny models and tiny benchmarks: what several tests start with."""

import json
import subprocess
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from unittest.mock import patch

import psutil
import yaml

from tests.helpers.tiny_benchmarks import write_tiny
from tests.helpers.tiny_small import SMALL
from train.__main__ import main
from train.data.benchmarks import DATASETS


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
    write = SMALL[name] if name in SMALL else partial(write_tiny, name)
    write(folder / "official")
    assert run("prepare", name, "--source", folder / "official", "--out", folder / "data", "--no-check") == 0
    return folder


def losses(out: Path) -> list[float]:
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if row["kind"] == "step"]


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


def log_length(out: Path) -> int:
    log = out / "log.jsonl"
    return log.stat().st_size if log.exists() else 0
