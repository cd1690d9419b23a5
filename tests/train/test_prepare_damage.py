"""Preparing what is damaged, and going on after being killed."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers import tiny_benchmarks as tiny
from tests.helpers.preparing import manifests, prepared
from tests.helpers.tiny_benchmarks import write_tiny
from train.data.benchmarks import find_dataset
from train.data.prepare import check_files, prepare, summary

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["gqa", "msrvtt_caption", "audiocaps"])
def test_missing_and_damaged_media_are_left_out_and_reported(name, tmp_path, capsys):
    source, out = write_tiny(name, tmp_path / "in"), tmp_path / "out"
    whole = prepared(name, source, tmp_path / "whole", check=False)
    train, val, test = (items for split, items in sorted(whole.items()) if split != "train7k")
    gone, cut, noise = (Path(items[0].media) for items in (train, val, test))
    gone.unlink()
    cut.write_bytes(cut.read_bytes()[:40])
    noise.write_bytes(random.Random(0).randbytes(500))
    report = prepare(find_dataset(name), source, out, workers=2)
    lost = {str(gone), str(cut), str(noise)}
    assert report["missing"] == [gone.stem] and report["damaged"].keys() == {str(cut), str(noise)}
    assert report["damaged"][str(cut)].startswith(str(cut)) and report["damaged"][str(cut)].endswith(".")
    expected = {split: [item for item in items if item.media not in lost] for split, items in whole.items()}
    assert manifests(out) == expected
    assert json.loads((out / "report.json").read_text()) == report
    left_out = sum(len(whole[split]) - len(expected[split]) for split in whole)
    assert sum(count["left_out"] for count in report["splits"].values()) == left_out > 0
    left_out = len({item.id for items in whole.values() for item in items if item.media in lost})
    assert report["left_out"] == left_out  # an item of two splits counts once
    text = summary(find_dataset(name), report, out)
    assert f"1 missing and 2 damaged; {left_out} items are left out" in text
    assert f"{gone.stem} is missing." in text and report["damaged"][str(cut)] in text


def test_repaired_files_are_opened_again(tmp_path):
    source, out = write_tiny("gqa", tmp_path / "in"), tmp_path / "out"
    picture = source / "images" / "n2001.jpg"
    picture.write_bytes(b"\xff\xd8\xff damaged")
    assert len(prepared("gqa", source, out, workers=1)["train"]) == 7
    tiny.write_picture(1, picture)
    assert len(prepared("gqa", source, out, workers=1)["train"]) == 8
    picture.write_bytes(b"")
    assert len(prepared("gqa", source, out, workers=1)["train"]) == 7


def test_a_split_without_media_has_no_manifest_not_even_an_old_one(tmp_path):
    source, out = write_tiny("audiocaps", tmp_path / "in"), tmp_path / "out"
    assert "test" in prepared("audiocaps", source, out, check=False)
    for path in (source / "test").iterdir():
        path.unlink()
    report = prepare(find_dataset("audiocaps"), source, out, check=False)
    assert manifests(out).keys() == {"train", "val"}
    assert "test.jsonl is not written: none of its 6 items can be used." in summary(
        find_dataset("audiocaps"), report, out
    )


def dies_on_some(path: str) -> str | None:
    if "bad" in path:
        os.kill(os.getpid(), signal.SIGSEGV)
    return "refused" if "odd" in path else None


def test_a_file_that_kills_its_worker_is_damaged_and_the_others_are_still_opened():
    paths = [f"good{i}" for i in range(10)] + ["bad1", "odd"] + [f"fine{i}" for i in range(30)] + ["bad2"]
    outcome = dict(check_files(paths, dies_on_some, workers=2))
    assert outcome.keys() == set(paths)
    problems = {path: problem for path, problem in outcome.items() if problem}
    assert problems.keys() == {"bad1", "bad2", "odd"} and problems["odd"] == "refused"
    assert problems["bad1"].startswith("bad1 crashes the program that opens it")


def hangs_on_some(path: str) -> str | None:
    while "endless" in path:
        pass
    return None


def test_a_file_that_takes_for_ever_is_damaged_and_the_others_are_still_opened():
    paths = ["good1", "endless", *(f"fine{i}" for i in range(10))]
    outcome = dict(check_files(paths, hangs_on_some, workers=2, seconds=1))
    assert outcome.keys() == set(paths)
    [(path, problem)] = [(path, problem) for path, problem in outcome.items() if problem]
    assert path == "endless" and "or takes more than 1 seconds" in problem


# Stopping and going on


def same(one: Path, other: Path) -> bool:
    names = {path.name for path in one.iterdir()} - {"checked.jsonl"}
    return names == {path.name for path in other.iterdir()} - {"checked.jsonl"} and all(
        (one / name).read_bytes() == (other / name).read_bytes() for name in names
    )


@pytest.fixture
def damaged_gqa(tmp_path) -> Path:
    source = write_tiny("gqa", tmp_path / "in")
    (source / "images" / "n2001.jpg").unlink()
    (source / "images" / "n2003.jpg").write_bytes(b"\xff\xd8\xff damaged")
    return source


def test_killed_and_started_again(damaged_gqa, tmp_path):
    """SIGKILL while files are being opened: the workers end, too."""
    prepare(find_dataset("gqa"), damaged_gqa, tmp_path / "undisturbed", workers=1)
    out, mark = tmp_path / "out", f"PREPARE_TEST={tmp_path}"
    (tmp_path / "slow.py").write_text(
        "import time, train.data.prepare as p\ndef check(path): time.sleep(1); return p.check_image(path)"
    )
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import train.data.prepare as p, train.data.benchmarks as d, slow, pathlib\n"
        "p.CHECKS['image'] = slow.check\n"
        f"p.prepare(d.find_dataset('gqa'), pathlib.Path({str(damaged_gqa)!r}), pathlib.Path({str(out)!r}), "
        "workers=2)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "PREPARE_TEST": str(tmp_path)}
    )
    while len(lines(out / "checked.jsonl")) < 3 and process.poll() is None:
        time.sleep(0.02)
    assert marked(mark) or not Path("/proc").exists()
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert 3 <= len(lines(out / "checked.jsonl")) < 19 and not list(out.glob("report*"))
    deadline = time.monotonic() + 20
    while (alive := marked(mark)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive
    prepare(find_dataset("gqa"), damaged_gqa, out, workers=2)
    assert same(out, tmp_path / "undisturbed")


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def marked(mark: str) -> list[str]:
    """Processes with this in their environment; none where it cannot be seen."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (process / "environ").read_bytes().split(b"\0"):
                found.append(process.name)
        except OSError:
            continue
    return found


def test_cut_off_anywhere_and_started_again(damaged_gqa, tmp_path):
    """A kill leaves any first part of checked.jsonl, any of the manifests, or a part file."""
    undisturbed, out = tmp_path / "undisturbed", tmp_path / "out"
    prepare(find_dataset("gqa"), damaged_gqa, undisturbed, workers=1)
    rows = (undisturbed / "checked.jsonl").read_bytes()
    chance = random.Random(0)
    for _ in range(8):
        out.mkdir()
        (out / "checked.jsonl").write_bytes(rows[: chance.randrange(len(rows))])
        for name in ("train.jsonl", "testdev.jsonl", "report.json"):
            if chance.random() < 0.5:
                (out / name).write_bytes((undisturbed / name).read_bytes())
        (out / "val.jsonl.part").write_text('{"id": "0000')
        prepare(find_dataset("gqa"), damaged_gqa, out, workers=1)
        assert same(out, undisturbed)
        for path in out.iterdir():
            path.unlink()
        out.rmdir()


def test_a_second_run_opens_nothing_again(official, tmp_path, monkeypatch, capsys):
    prepare(find_dataset("gqa"), official["gqa"], tmp_path, workers=1)
    before = (tmp_path / "checked.jsonl").read_bytes()
    prepare(find_dataset("gqa"), official["gqa"], tmp_path, workers=1)
    assert (tmp_path / "checked.jsonl").read_bytes() == before
    assert "20 files were already checked." in capsys.readouterr().err
