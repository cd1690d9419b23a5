"""What the demo refuses, who waits, and what becomes of uploads."""

from __future__ import annotations

import os
import threading
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import soundfile
from filelock import FileLock
from PIL import Image

from epalm.demo import uploads
from epalm.demo.answering import waiting
from epalm.demo.flow import Flow
from epalm.demo.limits import Limits, RateLimit
from epalm.demo.problems import Refusal, explained
from epalm.demo.uploads import Uploads
from epalm.errors import EPALMError
from epalm.media.reader import HERE, Reading
from tests.demo.test_app import film

SMALL = Limits(megabytes=1, megapixels=1, seconds=2, question=20)


@pytest.fixture
def large(tmp_path: Path) -> dict[str, Path]:
    """A file over each limit of SMALL."""
    Image.new("L", (1200, 1000)).save(tmp_path / "wide.png")
    soundfile.write(tmp_path / "long.flac", np.zeros(8000 * 3), 8000)
    (tmp_path / "heavy.jpg").write_bytes(b"\xff\xd8\xff" + bytes(1_000_001))
    return {
        "wide.png": tmp_path / "wide.png",
        "long.flac": tmp_path / "long.flac",
        "long.mp4": film(tmp_path / "long.mp4", "libx264", length=75),
        "heavy.jpg": tmp_path / "heavy.jpg",
    }


@pytest.mark.parametrize(
    "name, modality, says",
    [
        ("wide.png", "image", "wide.png has more than 1 million pixels"),
        ("long.flac", "audio", "long.flac is 3 seconds long, but at most 2"),
        ("long.mp4", "video", "long.mp4 is 3 seconds long, but at most 2"),
        ("heavy.jpg", "image", "heavy.jpg has 1 MB, but at most 1"),
    ],
)
def test_a_file_over_a_limit_is_refused_by_its_header(large, name, modality, says):
    with pytest.raises(Refusal, match=says) as refused:
        SMALL.check_file(large[name], modality, HERE)
    assert refused.value.code == "file-too-large"
    Limits().check_file(large[name], modality, HERE)


def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path):
    header = b"IHDR" + (60_000).to_bytes(4) * 2 + b"\x08\0\0\0\0"
    start = b"\x89PNG\r\n\x1a\n" + (13).to_bytes(4)
    (tmp_path / "bomb.png").write_bytes(start + header + zlib.crc32(header).to_bytes(4) + bytes(4) + b"IDAT")
    with pytest.raises(Refusal, match="million pixels"):
        Limits().check_file(tmp_path / "bomb.png", "image", HERE)


@pytest.mark.parametrize(
    "question, says",
    [
        ("", "empty"),
        (" \n", "empty"),
        ("why? " * 5, "24 characters"),
        (3, "empty"),
        ("why \ud83d?", "half of a character"),
    ],
)
def test_a_question_that_cannot_be_asked_is_refused(question, says):
    with pytest.raises(Refusal, match=says) as refused:
        SMALL.check_question(question)
    assert refused.value.code == "bad-question"


@pytest.mark.parametrize(
    "beams, tokens", [(0, 0), (1.5, 0), (9, 0), (1, -1), (1, 101), ("2", 0), (None, 0), (float("nan"), 0)]
)
def test_settings_out_of_range_are_refused(beams, tokens):
    with pytest.raises(Refusal, match="Beams go from 1 to 8"):
        SMALL.check_settings(beams, tokens)


@pytest.mark.parametrize("mask", ["foo", "", 1, ["causal"]])
def test_a_mask_mode_that_there_is_not_is_refused(mask):
    SMALL.check_settings(1, 0, "reference")
    with pytest.raises(Refusal, match="these mask modes: causal, reference"):
        SMALL.check_settings(1, 0, mask)


def test_a_file_that_goes_meanwhile_is_left_to_the_reader(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "is_file", lambda path: True)  # it was still there a moment ago
    SMALL.check_file(tmp_path / "gone.png", "image", HERE)
    with pytest.raises(EPALMError, match="gone.png"):
        HERE.read(tmp_path / "gone.png", Reading("image"))


def test_who_has_to_wait_is_never_told_to_wait_no_time(monkeypatch):
    monkeypatch.setattr("time.monotonic", lambda: 0.0)
    rate = RateLimit(600)  # a tenth of a second each
    assert [rate.take("a") for _ in range(601)] == [0] * 600 + [1]


def test_a_client_that_asks_too_often_waits_and_others_do_not():
    rate = RateLimit(3)
    assert [rate.take("a") for _ in range(3)] == [0, 0, 0]
    assert 15 < rate.take("a") <= 20
    assert rate.take("b") == 0
    with pytest.raises(Refusal, match="3 times a minute") as refused:
        rate.check("a")
    assert refused.value.code == "too-many-requests"
    assert not any(RateLimit(0).take("a") for _ in range(1000))


def test_too_many_requests_at_once_are_refused_and_so_are_all_when_the_server_closes():
    flow = Flow(2)
    with flow.enter(), flow.enter(), pytest.raises(Refusal, match="2 requests") as refused, flow.enter():
        pass
    assert refused.value.code == "busy" and flow.running == 0
    with flow.enter():
        assert not flow.close(0.01)
    assert flow.close(1)
    with pytest.raises(Refusal) as refused, flow.enter():
        pass
    assert refused.value.code == "closing"


def test_who_waits_is_told_how_many_are_ahead():
    assert [waiting(place) for place in (0, 1, 3)] == ["", "You are next.", "2 requests are ahead of yours."]


def test_memory_that_runs_out_has_its_own_code():
    code, sentence = explained(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to …"))
    assert code == "out-of-memory" and "smaller file" in sentence
    assert explained(MemoryError())[0] == "out-of-memory"


def test_a_sentence_about_half_of_a_character_can_be_sent():
    code, sentence = explained(Refusal("bad-model", "There is no model '\ud83d' here."))
    assert (code, sentence) == ("bad-model", "There is no model '?' here.")


def put(folder: Path, name: str) -> Path:
    path = folder / name / "x.png"
    path.parent.mkdir()
    path.write_bytes(b"x")
    return path


def test_uploads_go_after_their_time_and_on_request_but_not_another_visitors(tmp_path):
    counts: list[int] = []
    kept = Uploads(tmp_path, kept=1000, deleted=counts.append)
    mine, shared, old = (put(tmp_path, name) for name in ("mine", "shared", "old"))
    outside = put(tmp_path.parent, f"outside-{os.getpid()}")
    for path, visit in ((mine, "a"), (shared, "a"), (shared, "b"), (outside, "a")):
        kept.use(path, visit)
    assert kept.forget("a") == 1
    assert not mine.parent.exists() and shared.exists() and outside.exists()
    assert kept.purge() == 0
    assert kept.purge(age=0) == 2
    assert list(tmp_path.iterdir()) == [] and outside.exists() and not old.exists()
    assert counts == [1, 0, 2]


def test_a_purge_takes_empty_folders_and_passes_over_what_others_delete_meanwhile(tmp_path):
    (tmp_path / "empty" / "deeper").mkdir(parents=True)
    kept, done = Uploads(tmp_path, kept=1000), threading.Event()
    assert kept.purge() == 0 and (tmp_path / "empty" / "deeper").exists()

    def come_and_go() -> None:
        while not done.is_set():
            for number in range(50):
                (tmp_path / str(number)).mkdir()
            for number in range(50):
                (tmp_path / str(number)).rmdir()

    visitors = threading.Thread(target=come_and_go)
    visitors.start()
    try:
        for _ in range(100):
            kept.purge()
    finally:
        done.set()
        visitors.join()
    assert kept.purge(age=0) == 0
    assert list(tmp_path.iterdir()) == []


def test_a_purge_takes_an_old_folder_that_another_empty_one_left_just_now(tmp_path, monkeypatch):
    (tmp_path / "empty" / "deeper").mkdir(parents=True)
    rmdir = Path.rmdir
    monkeypatch.setattr(Path, "rmdir", lambda path: (time.sleep(0.05), rmdir(path)))  # the clock goes on
    Uploads(tmp_path, kept=1000).purge(age=0)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_deleted_is_logged_and_the_others_go(tmp_path, monkeypatch, capfd):
    counts: list[int] = []
    kept = Uploads(tmp_path, kept=1000, deleted=counts.append)
    stuck, *others = paths = [put(tmp_path, name) for name in ("stuck", "one", "two")]
    unlink = Path.unlink

    def refuse(path: Path, missing_ok: bool = False) -> None:
        if path == stuck:
            raise PermissionError(str(path))
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    for path in (stuck, others[0]):
        kept.use(path, "a")
    assert kept.forget("a") == 1 and kept.purge(age=0) == 1
    assert [path for path in paths if path.exists()] == [stuck] and counts == [1, 1]
    assert capfd.readouterr().err.splitlines() == ["upload not deleted  type=PermissionError"] * 2


def test_two_servers_that_start_at_once_have_a_folder_each(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")
    folders: list[Path] = []

    class Slow(FileLock):
        def acquire(self, *args, **options):
            if "blocking" not in options and not Path(self.lock_file).exists():
                Path(self.lock_file).touch()  # it is there, and not taken yet
                monkeypatch.setattr(uploads, "FileLock", FileLock)
                folders.append(uploads.claim(tmp_path))
            return super().acquire(*args, **options)

    monkeypatch.setattr(uploads, "FileLock", Slow)
    folders.append(uploads.claim(tmp_path))
    assert len(set(folders)) == 2 and all(folder.is_dir() for folder in folders)


def test_a_new_server_deletes_what_a_killed_one_left(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")
    left = tmp_path / "left"
    left.mkdir()
    (left / "half.mp4").write_bytes(b"x")
    (tmp_path / "left.lock").touch()
    mine = uploads.claim(tmp_path)
    assert not left.exists() and mine.parent == tmp_path
    other = uploads.claim(tmp_path)  # a second server on this machine leaves the first one's alone
    assert mine.exists() and other != mine and os.environ["GRADIO_TEMP_DIR"] == str(other)
