"""Adapters on the Hub, without the Hub: its cache layout on disk, and what an upload would send."""

import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import httpx2
import huggingface_hub.constants as constants
import numpy as np
import pytest
import timm
import torch
from huggingface_hub import HfApi
from transformers import ASTConfig, ASTModel

from epalm import EPALM, EPALMError
from epalm.adapter import CONFIG, WEIGHTS
from epalm.encoders.base import hub_errors
from epalm.encoders.load import load_encoder
from epalm.hub import locate as locating
from epalm.hub.locate import locate
from epalm.hub.zoo import HubSource
from epalm.language_model import load_lm

IMAGE = np.zeros((20, 20, 3), dtype=np.uint8)
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def offline_hub(tmp_path, monkeypatch):
    """An empty local cache, as the library keeps it, and no network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path


def test_a_repository_that_was_fetched_once_loads_by_its_id(offline_hub, tiny_model_dir):
    repository = offline_hub / "models--someone--adapters"
    shutil.copytree(tiny_model_dir, repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    model = EPALM.from_pretrained("someone/adapters", device="cpu")
    local = EPALM.from_pretrained(tiny_model_dir, device="cpu")
    assert model.caption(IMAGE) == local.caption(IMAGE)
    assert EPALM.from_pretrained("someone/adapters", device="cpu", revision=COMMIT).adapters.keys()


def test_an_unknown_repository_is_one_sentence(offline_hub):
    with pytest.raises(EPALMError, match="someone/nothing is not a local folder and could not be fetched"):
        EPALM.from_pretrained("someone/nothing", device="cpu")


def test_a_network_that_refuses_is_one_sentence(monkeypatch, tmp_path):
    def refused(*args, **options):
        raise httpx2.ProxyError("403 Forbidden")

    monkeypatch.setattr("epalm.hub.locate.snapshot_download", refused)
    with pytest.raises(EPALMError, match="could not be fetched from the hub.*403 Forbidden"):
        EPALM.from_pretrained("someone/adapters", device="cpu")
    monkeypatch.setattr("huggingface_hub.hf_hub_download", refused)
    with pytest.raises(EPALMError, match="not be downloaded from the Hugging Face Hub.*403"):
        HubSource("someone/demo", "checkpoint.pth", COMMIT).fetch(tmp_path / "a.pth")
    with (
        pytest.raises(EPALMError, match="The encoder timm/vit could not be loaded.*403"),
        hub_errors("timm/vit"),
    ):
        refused()


def test_a_published_model_is_made_once_by_whoever_comes_first(monkeypatch, tmp_path):
    made: list[Path] = []

    def convert(checkpoint, folder, name):
        made.append(folder)
        time.sleep(0.1)  # others come in between
        folder.mkdir(exist_ok=True)
        (folder / WEIGHTS).touch()
        (folder / CONFIG).touch()

    monkeypatch.setenv("EPALM_CACHE", str(tmp_path))
    monkeypatch.setattr(locating, "fetch_checkpoint", lambda *args: tmp_path / "checkpoint.pth")
    monkeypatch.setattr(locating, "convert", convert)
    with ThreadPoolExecutor(4) as processes:
        found = list(processes.map(lambda _: locate("vqa-opt-6.7b", None, None, str), range(4)))
    folder = tmp_path / "adapters" / "vqa-opt-6.7b"
    assert found == [folder] * 4 and made == [folder]

    (folder / CONFIG).unlink()  # killed between the two files
    assert locate("vqa-opt-6.7b", None, None, str) == folder and len(made) == 2


def test_a_truncated_language_model_is_one_sentence(tiny_model_dir, tmp_path):
    config = next(iter(EPALM.from_pretrained(tiny_model_dir, device="cpu").adapters.values())).config.lm
    shutil.copytree(config.id, tmp_path / "lm")
    weights = tmp_path / "lm" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(EPALMError, match="The language model .* could not be loaded"):
        load_lm(replace(config, id=str(tmp_path / "lm")), "cpu", torch.float32)


def test_an_upload_sends_the_adapter_folder_alone(tiny_model_dir, monkeypatch, tmp_path):
    sent = tmp_path / "sent"

    def upload_folder(self, *, folder_path, **options):
        shutil.copytree(folder_path, sent)
        return SimpleNamespace(commit_url="")

    monkeypatch.setattr(HfApi, "create_repo", lambda self, repo_id, **o: SimpleNamespace(repo_id=repo_id))
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    model = EPALM.from_pretrained(tiny_model_dir / "image-caption", device="cpu")
    model.push_to_hub("someone/caption")
    assert {p.name for p in Path(sent).iterdir()} == {"README.md", "config.json", "adapter.safetensors"}
    assert EPALM.from_pretrained(sent, device="cpu").caption(IMAGE) == model.caption(IMAGE)


def test_an_encoder_is_taken_at_the_commit_that_the_adapter_names(offline_hub):
    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "num_attention_heads": 4, "intermediate_size": 48, "num_hidden_layers": 2}
    snapshots = offline_hub / "models--someone--ast" / "snapshots"
    networks = {}
    for commit in (COMMIT, "f" * 40):
        networks[commit] = ASTModel(ASTConfig(**sizes, max_length=96, num_mel_bins=48))
        networks[commit].save_pretrained(snapshots / commit)
    (snapshots.parent / "refs").mkdir()
    (snapshots.parent / "refs" / "main").write_text("f" * 40)
    for revision, commit in ((COMMIT, COMMIT), (None, "f" * 40)):
        loaded = load_encoder("someone/ast", revision=revision)
        key = "embeddings.cls_token"
        assert torch.equal(loaded.network.state_dict()[key], networks[commit].state_dict()[key])


def test_a_timm_encoder_asks_the_hub_for_the_pinned_commit(monkeypatch):
    asked = {}

    def create_model(name, **options):
        asked.update(options, name=name)
        raise RuntimeError("stop here")

    monkeypatch.setattr(timm, "create_model", create_model)
    with pytest.raises(EPALMError, match="stop here"):
        load_encoder("timm/vit_base_patch16_224.augreg_in21k_ft_in1k", revision=COMMIT)
    pinned = f"timm/vit_base_patch16_224.augreg_in21k_ft_in1k@{COMMIT}"
    assert asked["pretrained_cfg_overlay"] == {"hf_hub_id": pinned}
