"""Adapters on the Hub, without the Hub: its cache layout on disk, and what an upload would send."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub.constants as constants
import numpy as np
import pytest
from huggingface_hub import HfApi

from epalm import EPALM, EPALMError

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
    with pytest.raises(EPALMError, match=r"someone/nothing is no local folder, and the hub did not give it"):
        EPALM.from_pretrained("someone/nothing", device="cpu")


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
