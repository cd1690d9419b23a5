"""One run in several processes: shares of the files, a part for each, reruns, and one file in the end."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from epalm import EPALMError
from epalm.cli.main import main
from epalm.cli.parts import Share, open_results

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def pictures(tmp_path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(40):
        Image.new("RGB", (40, 30), (6 * i, 99, 255 - 6 * i)).save(folder / f"{i:02d}.png")
    return folder


def start(rank: int, processes: int, model: Path, pictures: Path, out: Path) -> subprocess.Popen:
    """A process as `accelerate launch` and `torchrun` start it."""
    command = [
        sys.executable,
        "-m",
        "epalm",
        "caption",
        str(pictures),
        "--out",
        str(out),
        "--model",
        str(model),
    ]
    environment = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
    return subprocess.Popen(
        [*command, "--device", "cpu", "--max-new-tokens", "4"], cwd=ROOT, env=os.environ | environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_two_processes_share_a_folder_and_go_on_after_one_was_killed(pictures, tiny_model_dir, tmp_path):
    out = tmp_path / "captions"
    first, second = (start(rank, 2, tiny_model_dir, pictures, out) for rank in (0, 1))
    part = out / "part-0001.jsonl"
    while not (part.exists() and part.read_bytes().count(b"\n") >= 3):
        assert second.poll() is None, second.communicate()[1]
        time.sleep(0.005)
    second.send_signal(signal.SIGKILL)
    assert first.wait() == 0, first.communicate()[1]
    second.wait()
    before = {row["file"] for path in out.glob("*.jsonl") for row in rows(path) if path != part}
    assert before == {str(path) for path in sorted(pictures.iterdir())[::2]}

    for process in [
        start(rank, 3, tiny_model_dir, pictures, out) for rank in range(3)
    ]:  # one more than before
        assert process.wait() == 0, process.communicate()[1]
    found = Counter(row["file"] for path in out.glob("*.jsonl") for row in rows(path))
    assert set(found) == {str(path) for path in pictures.iterdir()}
    assert set(found.values()) == {1}  # nothing was done twice

    merged, alone = tmp_path / "captions.jsonl", tmp_path / "alone.jsonl"
    assert main(["merge", str(out), str(merged)]) == 0
    options = ["--model", str(tiny_model_dir), "--device", "cpu", "--max-new-tokens", "4"]
    assert main(["caption", str(pictures), "--out", str(alone), *options]) == 0
    assert [(row["file"], row["text"]) for row in rows(merged)] == [
        (row["file"], row["text"]) for row in rows(alone)
    ]


def test_a_damaged_file_ends_no_process_in_failure_which_would_stop_the_others(
    pictures, tiny_model_dir, tmp_path, monkeypatch, capsys
):
    few = tmp_path / "few"
    few.mkdir()
    shutil.copy(pictures / "00.png", few)
    (few / "01.png").write_text("no picture")
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}.items():
        monkeypatch.setenv(name, value)
    options = ["--model", str(tiny_model_dir), "--device", "cpu", "--max-new-tokens", "4"]
    assert main(["caption", str(few), "--out", str(tmp_path / "parts"), *options]) == 0
    assert "01.png" in capsys.readouterr().err
    assert "error" in (tmp_path / "parts" / "part-0000.jsonl").read_text()


def test_shares_are_disjoint_and_of_equal_size():
    shares = [Share(rank, 3).of(range(10)) for rank in range(3)]
    assert sorted(sum(shares, [])) == list(range(10))
    assert [len(share) for share in shares] == [4, 3, 3]
    assert Share().of(range(3)) == [0, 1, 2]


def test_several_processes_must_be_told_a_folder(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["caption", str(tmp_path)]) == 2
    assert "give a folder for their texts with --out" in capsys.readouterr().err
    taken = tmp_path / "captions.jsonl"
    taken.write_text("")
    with pytest.raises(EPALMError, match="need a folder"):
        open_results(taken, {}, Share(0, 2, 0, launched=True))


def test_a_single_process_that_accelerate_started_also_writes_a_part(monkeypatch, tmp_path):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert not Share.of_environment().launched
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    open_results(tmp_path / "captions", {}, Share.of_environment()).add("a.jpg", text="a cat")
    assert rows(tmp_path / "captions" / "part-0000.jsonl")[0]["text"] == "a cat"


def test_of_two_parts_about_a_file_the_text_counts_and_the_newer_one(tmp_path):
    folder, merged = tmp_path / "parts", tmp_path / "all.jsonl"
    folder.mkdir()
    row = {"file": "b.jpg", "task": "caption", "modified": 2.0}
    parts = [
        [row | {"text": "old", "modified": 1.0}, {"file": "a.jpg", "task": "caption", "error": "damaged"}],
        [row | {"error": "gone"}, row | {"text": "new"}],
        [row | {"error": "gone", "modified": 3.0}, row | {"task": "qa", "text": "yes"}],
    ]
    for i, lines in enumerate(parts):
        (folder / f"part-000{i}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with (folder / "part-0002.jsonl").open("a") as file:
        file.write('{"file": "c.j')  # is being written, or was cut off
    assert main(["merge", str(folder), str(merged)]) == 0
    assert [(r["file"], r["task"], r.get("text")) for r in rows(merged)] == [
        ("a.jpg", "caption", None),
        ("b.jpg", "caption", "new"),
        ("b.jpg", "qa", "yes"),
    ]
    assert main(["merge", str(tmp_path), str(merged)]) == 2
