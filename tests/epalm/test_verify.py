"""This installation reproduces the original implementation's recorded runs."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from epalm.errors import EPALMError
from epalm.verify import verify

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = sorted(path.name for path in GOLDEN.glob("*_a"))


def test_all_ten_cases_are_here():
    assert len(CASES) == 10


@pytest.mark.parametrize("case", CASES)
def test_recorded_case(case):
    checks = verify(GOLDEN / case)
    assert [check for check in checks if not check.ok] == []
    names = " ".join(check.name for check in checks)
    for part in ("features", "connector", "layer inputs", "logits", "loss", "gradients"):
        assert part in names
    for part in ("two optimizer steps", "greedy cached: tokens", "greedy uncached: tokens"):
        assert part in names
    assert "beam3 cached: tokens" in names


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_precisions(dtype):
    checks = verify(GOLDEN / "image_shared_a", dtype=dtype)
    assert [check for check in checks if check.decides and not check.ok] == []


@pytest.mark.parametrize(
    "file, tensor", [("encoder", "norm.bias"), ("lm", "model.decoder.layers.3.fc1.bias")]
)
def test_a_changed_weight_is_noticed(tmp_path, file, tensor):
    case = shutil.copytree(GOLDEN / "edge_single_a", tmp_path / "case")
    state = load_file(case / f"{file}.safetensors")
    state[tensor] += 0.01
    save_file(state, case / f"{file}.safetensors")
    failed = [check.name for check in verify(case) if not check.ok]
    assert any(name.startswith("logits") for name in failed)
    assert any(name.startswith("gradients") for name in failed)


def test_a_folder_that_is_no_case_is_refused():
    with pytest.raises(EPALMError, match="not a recorded case"):
        verify(GOLDEN / "extras")
