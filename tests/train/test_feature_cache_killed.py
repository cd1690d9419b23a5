"""Filling a cache in processes that are killed at any moment, and the command that fills one."""

import json
import multiprocessing
import multiprocessing.forkserver
import os
import shutil
import signal
import time
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest
import torch

from epalm.config import EncoderConfig
from epalm.encoders.load import load_encoder
from tests.conftest import save_encoder
from tests.helpers.features import RECIPE, contents, item, pictures
from train.data.manifest import save_manifest
from train.features import encoding
from train.features.cache import FeatureCache
from train.features.command import run_features

MEDIA = files("gradio") / "media_assets"


# kill -9, in processes of their own: forks of a server that has imported everything, which start at once.

FORK = multiprocessing.get_context("forkserver")
ROOT = Path(__file__).parents[2]


def encode_here(folder: Path, rank: int, world: int, kill_at: int | None) -> None:
    """`run_features` as rank of world, killed by itself before the write number `kill_at`."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "OMP_NUM_THREADS": "1"}
    encoding.SHARD_ROWS = 4
    writes = 0

    def before(function):
        def counted(*arguments):
            nonlocal writes
            if writes == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            writes += 1
            return function(*arguments)

        return counted

    os.replace, os.fsync = before(os.replace), before(os.fsync)
    width = json.loads((folder / "width.json").read_text())
    config = EncoderConfig(str(folder / "encoder"), (-1, -1), (width, width))
    run_features(
        [folder / "train.jsonl"],
        config,
        load_encoder(config.id),
        RECIPE,
        folder / "cache",
        draws=1,
        batch=2,
        workers=2,
    )


def run_in_processes(folder: Path, world: int = 1, kill_at: int | None = None, after: float | None = None):
    """Exit codes; a process that was killed has -9."""
    processes = [
        FORK.Process(target=encode_here, args=(folder, rank, world, kill_at)) for rank in range(world)
    ]
    for process in processes:
        process.start()
    if after is not None:
        time.sleep(after)
        processes[0].kill()
    for process in processes:
        process.join(60)
    return [process.exitcode for process in processes]


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with a manifest of five pictures, an encoder, and its cache made without a disturbance."""
    folder = tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patch:  # the server looks for modules there alone
        patch.setenv("PYTHONPATH", str(ROOT))
        # One that other tests have started has not imported what these processes need, so that each would.
        multiprocessing.forkserver._forkserver._stop()
        FORK.set_forkserver_preload([__name__])
        multiprocessing.forkserver.ensure_running()
    items = pictures(folder / "media", 5)
    save_manifest([replace(each, media=f"media/{each.id}") for each in items], folder / "train.jsonl")
    _, width = save_encoder(folder / "encoder")
    (folder / "width.json").write_text(str(width))
    assert run_in_processes(folder) == [0]
    (folder / "cache").rename(folder / "undisturbed")
    return folder


WRITES = 2 * (1 + 2 * 3)  # cache.json and three shards with their index, each synced and renamed


def test_killed_before_any_write_the_rerun_gives_the_same_bytes(work):
    expected = contents(work / "undisturbed")
    assert len(expected) == 1 + 2 * 3 + 1  # and the list of media
    for kill_at in range(WRITES):
        shutil.rmtree(work / "cache", ignore_errors=True)
        assert run_in_processes(work, kill_at=kill_at) == [-signal.SIGKILL]
        assert run_in_processes(work) == [0]
        assert contents(work / "cache") == expected, kill_at
    shutil.rmtree(work / "cache")


def test_killed_again_and_again_it_gets_done(work):
    codes = [run_in_processes(work, kill_at=4)[0] for _ in range(4)]
    assert codes == [-signal.SIGKILL] * 3 + [0]
    assert contents(work / "cache") == contents(work / "undisturbed")
    shutil.rmtree(work / "cache")


def test_killed_from_outside_at_any_time(work):
    for after in (0.02, 0.05, 0.1, 0.2):
        run_in_processes(work, after=after)
    assert run_in_processes(work) == [0]
    assert contents(work / "cache") == contents(work / "undisturbed")
    shutil.rmtree(work / "cache")


def test_two_processes_share_the_work_and_survive_a_kill(work):
    assert run_in_processes(work, world=2) == [0, 0]
    (work / "cache").rename(work / "by two")
    run_in_processes(work, world=2, after=0.15)
    assert run_in_processes(work, world=2) == [0, 0]
    assert contents(work / "cache") == contents(work / "by two")

    config = EncoderConfig(
        str(work / "encoder"), (-1, -1), (json.loads((work / "width.json").read_text()),) * 2
    )
    alone, both = (FeatureCache.open(work / name, config, RECIPE, 1) for name in ("undisturbed", "cache"))
    assert alone.rows.keys() == both.rows.keys()
    for key, view in alone.rows:
        draw = int(view.startswith("augmented"))
        assert torch.allclose(alone.get(key, draw)[0], both.get(key, draw)[0], atol=1e-5)
    shutil.rmtree(work / "cache")


# The command


def test_the_command_says_what_it_did_and_what_it_could_not_read(work, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("RANK", raising=False)
    width = json.loads((work / "width.json").read_text())
    config = EncoderConfig(str(work / "encoder"), (-1,), (width,))
    rows = [*pictures(tmp_path / "media", 2), item(tmp_path / "media" / "absent.png")]
    save_manifest(rows, tmp_path / "val.jsonl")
    encoder = load_encoder(config.id)
    assert run_features([tmp_path / "val.jsonl"], config, encoder, RECIPE, tmp_path / "cache", 0, 4, 2) == 1
    said = capsys.readouterr().out
    assert "absent.png does not exist." in said
    assert "3 files: 2 views encoded, 0 already there." in said
