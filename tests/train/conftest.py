"""A tiny training that several tests go on from."""

from pathlib import Path

import pytest
import torch
from transformers import ASTConfig, ASTModel

from tests.helpers.tiny_benchmarks import write_tiny
from tests.helpers.trainings import prepared, run, settings_for
from train.data.benchmarks import PAPER


@pytest.fixture(scope="session")
def tiny_ast(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("ast")
    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "num_attention_heads": 2, "intermediate_size": 24, "num_hidden_layers": 1}
    ASTModel(ASTConfig(**sizes, frequency_stride=16, time_stride=64)).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def gqa(tmp_path_factory, tiny_model_dir) -> Path:
    """Settings of a training on tiny GQA, its features encoded."""
    folder = prepared("gqa", tmp_path_factory.mktemp("gqa"))
    config = settings_for("gqa", folder, tiny_model_dir, "", epochs=3, save_every=1)
    assert run("features", config, "--device", "cpu") == 0
    assert run("fit", config) == 0
    return config


@pytest.fixture(scope="session")
def official(tmp_path_factory) -> dict[str, Path]:
    """Every benchmark as downloaded; tests that change something copy it."""
    folder = tmp_path_factory.mktemp("official")
    return {name: write_tiny(name, folder / name) for name in PAPER}
