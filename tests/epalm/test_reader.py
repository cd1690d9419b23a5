"""A reading process gives what this process gives, and may crash, hang or fill the memory."""

import errno
import logging
import os
import signal
import subprocess
import sys
import threading
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from epalm.errors import EPALMError
from epalm.media.reader import HERE, Reading, ReadingProcess
from epalm.media.recipes import RECIPES
from tests.epalm.test_audio import sound_file, tone
from tests.epalm.test_video import video


@pytest.fixture(scope="module")
def reader():
    with ReadingProcess(seconds=30) as reader:
        yield reader


def picture(side=48) -> bytes:
    buffer = BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (side, side + 16, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


FILES = {"image": picture(), "video": video(12), "audio": sound_file(tone(1, channels=3))}


@pytest.mark.parametrize("modality", FILES)
@pytest.mark.parametrize("as_path", [True, False], ids=["path", "bytes"])
def test_another_process_reads_the_same(reader, tmp_path, monkeypatch, modality, as_path):
    monkeypatch.chdir(tmp_path)  # paths are relative to where this process is now
    source = FILES[modality]
    if as_path:
        (tmp_path / "file.bin").write_bytes(FILES[modality])
        source = "file.bin"
    assert reader.modality_of(source) == modality
    for recipe in RECIPES[modality].values():
        assert (recipe(recipe.open(source, reader)) == recipe(recipe.open(source))).all()


def test_pictures_in_memory_stay_in_this_process(reader):
    image = Image.new("RGB", (4, 4))
    assert reader.modality_of(image) == "image"
    assert reader.read(image, Reading("image")).size == (4, 4)
    with pytest.raises(EPALMError, match="is not a video: pass a file"):
        reader.read(image, Reading("video"))


@pytest.mark.parametrize(
    "content", [b"", b"plain words\n" * 99, picture()[:200]], ids=["empty", "text", "cut"]
)
def test_errors_are_the_same(reader, tmp_path, content):
    path = tmp_path / "notes.jpg"
    path.write_bytes(content)
    sentences = []
    for where in (HERE, reader):
        with pytest.raises(EPALMError) as error:
            where.read(path, Reading("image"))
        sentences.append(str(error.value))
    assert sentences[0] == sentences[1] and sentences[0].startswith(str(path))


def test_the_log_has_the_traceback(reader, tmp_path, caplog):
    path = tmp_path / "half.png"
    path.write_bytes(picture()[:5000])
    with caplog.at_level(logging.INFO, "epalm"), pytest.raises(EPALMError):
        reader.read(path, Reading("image"))
    assert "Traceback (most recent call last)" in caplog.text and "half.png" in caplog.text


def test_a_crash_costs_one_file():
    with ReadingProcess(seconds=30) as reader:
        assert reader.modality_of(FILES["image"]) == "image"
        for end in (signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL):
            worker = reader._idle.get()
            worker.process.send_signal(end)
            worker.process.wait()
            reader._idle.put(worker)
            with pytest.raises(EPALMError, match="The file crashes the program that opens it"):
                reader.modality_of(FILES["video"])
            assert reader.modality_of(FILES["video"]) == "video"


@pytest.fixture
def no_process(monkeypatch):
    """While it is set, no process can be started; collects the files that were open for it."""
    full, start, files = threading.Event(), subprocess.Popen, []

    def popen(*args, pass_fds=(), **options):
        if full.is_set():
            files.extend(pass_fds)
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return start(*args, pass_fds=pass_fds, **options)

    monkeypatch.setattr(subprocess, "Popen", popen)
    return full, files


def test_a_process_that_cannot_start_costs_one_file_and_nothing_stays_open(no_process):
    full, files = no_process
    full.set()
    with ReadingProcess(workers=2) as reader:
        for attempt in (reader.start, *[lambda: reader.modality_of(FILES["image"])] * 3):
            with pytest.raises(EPALMError, match=r"cannot be started \(Resource .*\): try again in a moment"):
                attempt()
        for file in files:
            with pytest.raises(OSError):
                os.fstat(file)
        full.clear()
        assert reader.modality_of(FILES["image"]) == "image"


def test_a_crash_is_told_although_no_other_process_can_start(no_process):
    full, _ = no_process
    with ReadingProcess(seconds=30).start() as reader:
        worker = reader._idle.get()
        worker.process.kill()
        worker.process.wait()
        reader._idle.put(worker)
        full.set()
        with pytest.raises(EPALMError, match="The file crashes the program that opens it"):
            reader.modality_of(FILES["video"])
        full.clear()
        assert reader.modality_of(FILES["video"]) == "video"


def test_what_takes_too_long_is_given_up():
    with ReadingProcess(seconds=3) as reader:
        reader.start()
        assert reader.modality_of(FILES["audio"]) == "audio"
        worker = reader._idle.get()
        worker.process.send_signal(signal.SIGSTOP)
        reader._idle.put(worker)
        with pytest.raises(EPALMError, match="The file takes more than 3 seconds to read: make it shorter"):
            reader.modality_of(FILES["audio"])
        assert reader.modality_of(FILES["audio"]) == "audio"


def test_memory_is_bounded(tmp_path):
    path = tmp_path / "large.png"
    Image.new("RGB", (9000, 9000)).save(path)
    with ReadingProcess(seconds=60, megabytes=100) as reader:
        with pytest.raises(
            EPALMError, match=r"large\.png (needs more memory|is damaged|crashes the program)"
        ):
            reader.read(path, Reading("image"))
        assert reader.read(FILES["image"], Reading("image")).size == (64, 48)


def test_threads_share_the_processes():
    with ReadingProcess(workers=2) as reader:
        answers: list[str] = []
        threads = [
            threading.Thread(target=lambda source=source: answers.append(reader.modality_of(source)))
            for source in [*FILES.values()] * 4
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(answers) == sorted([*FILES] * 4)


def test_a_reading_process_ends_with_the_one_that_asks():
    reader = ReadingProcess().start()
    worker = reader._idle.get()
    worker.process.stdin.close()  # as when this process is killed
    assert worker.process.wait(timeout=60) == 0
    worker.process.stdout.close()


def test_a_reading_process_needs_no_pytorch():
    code = "import epalm.media.image, epalm.media.video, epalm.media.audio, epalm.media.reader, sys"
    code += "; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
