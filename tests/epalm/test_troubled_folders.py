"""Folders and pipes as people have them: whatever is in them, every file gets its line."""

import io
import os
import random
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from epalm.cli.main import main
from epalm.errors import EPALMError
from epalm.media import container
from epalm.media.container import modality_of, open_file, whole
from epalm.media.image import open_image
from epalm.media.reader import Reading, ReadingProcess
from epalm.media.recipes import RECIPES
from tests.epalm.test_audio import sound_file, tone
from tests.epalm.test_image import encoded
from tests.epalm.test_troubled_pictures import POSTSCRIPT, WORKFLOW, chunk, photo, with_chunk
from tests.epalm.test_troubled_sounds import sound_track, with_channel_tag
from tests.epalm.test_troubled_videos import trimmed
from tests.epalm.test_video import video


class FailingFile(io.FileIO):
    """Reads well up to a place, and fails from there on, as a failing disk does."""

    good = 0

    def readinto(self, buffer):
        if self.tell() + len(buffer) > self.good:
            raise OSError(5, "Input/output error")
        return super().readinto(buffer)


# What a library raises


@pytest.mark.parametrize(
    "error", [TypeError("x"), ValueError("y"), KeyError("z"), RuntimeError(""), OverflowError()]
)
def test_whatever_a_library_raises_becomes_one_sentence(tmp_path, error):
    path = tmp_path / "odd.bin"
    path.write_bytes(b"content")
    sentence = r"odd\.bin cannot be read: it is damaged or its format"
    with pytest.raises(EPALMError, match=sentence) as caught, open_file(path):
        raise error
    assert caught.value.__cause__ is error and str(caught.value).count("\n") == 0


def test_a_file_that_needs_too_much_memory_is_said_to(tmp_path):
    path = tmp_path / "large.bin"
    path.write_bytes(b"content")
    with pytest.raises(EPALMError, match=r"large\.bin needs more memory than is available"), open_file(path):
        raise MemoryError


@pytest.mark.parametrize("good", [0, 100, 20_000])
@pytest.mark.parametrize(
    "content",
    [encoded(photo()), encoded(photo(), "JPEG", quality=98), video(60), sound_file(tone(3)),
     sound_track("libmp3lame", "mp3", 2)],
    ids=["png", "jpeg", "mp4", "wav", "mp3"],
)  # fmt: skip
def test_a_failing_disk_is_named(tmp_path, monkeypatch, capfd, content, good):
    from epalm.media.audio import open_audio
    from epalm.media.video import open_video

    path = tmp_path / "cloud.bin"
    path.write_bytes(content)
    monkeypatch.setattr(FailingFile, "good", good)
    monkeypatch.setattr(container.io, "FileIO", FailingFile)
    for opening in (modality_of, open_image, open_video, open_audio):
        try:
            opening(path)
        except EPALMError as error:
            sentence = str(error)
            if good == 0 or "Input/output" in sentence:
                assert sentence.startswith(f"{path} cannot be read: Input/output error.")
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="only Linux has a file that always fails")
def test_a_file_that_opens_and_fails_is_named():
    with pytest.raises(EPALMError, match="/proc/self/mem cannot be read: Input/output error"):
        modality_of("/proc/self/mem")


# Pipes


def piped(content: bytes) -> str:
    """The path of a pipe that gives a content, as `<(curl …)` does."""
    reading, writing = os.pipe()

    def write():
        with os.fdopen(writing, "wb") as file:
            file.write(content)

    threading.Thread(target=write, daemon=True).start()
    return f"/dev/fd/{reading}"


def test_a_pipe_is_read_whole():
    content = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (600, 500, 3), np.uint8)))
    assert whole(piped(content)) == content
    assert modality_of(piped(content)) == "image"
    assert open_image(piped(content)).size == (500, 600)


def test_a_pipe_that_waits_for_its_writer(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    threading.Timer(0.5, lambda: path.write_bytes(b"late")).start()
    assert whole(path) == b"late"


def test_a_pipe_that_sends_nothing_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(container, "SILENCE", 0.3)
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(EPALMError, match="The pipe .* has sent nothing"):
        whole(path)


def test_a_pipe_that_never_ends_is_given_up(monkeypatch):
    monkeypatch.setattr(container, "PIPED", 1 << 20)
    with pytest.raises(EPALMError, match="The pipe .* sends more than 1 MiB"):
        whole(piped(bytes(5 << 20)))


def test_a_device_is_no_file():
    with pytest.raises(EPALMError, match="/dev/zero is a device, not a file or a pipe"):
        modality_of("/dev/zero")


def test_the_command_reads_a_pipe(tiny_model_dir, capsys):
    path = piped(encoded(photo()))
    assert main(["caption", "--model", str(tiny_model_dir), path]) == 0
    assert capsys.readouterr().out.strip()


def test_the_command_reads_its_standard_input(tiny_model_dir):
    command = [sys.executable, "-m", "epalm", "caption", "--model", str(tiny_model_dir), "/dev/stdin"]
    result = subprocess.run(command, input=encoded(photo()), capture_output=True)
    assert result.returncode == 0 and result.stdout.strip(), result.stderr
    result = subprocess.run(command, input=b"words", capture_output=True)
    assert result.returncode == 2 and b"Traceback" not in result.stderr


# All together


def troubles() -> dict[str, bytes]:
    png, jpeg = encoded(photo()), encoded(photo(), "JPEG")
    return {
        "a1.m4a": sound_track("aac", "ipod", 8),
        "a2.mov": with_channel_tag(sound_track("pcm_s16le", "mov", 6), (122 << 16) | 6),
        "a2b.mov": sound_track("pcm_s16le", "mov", 7),
        "a3.mp3": sound_track("libmp3lame", "mp3", 2, 44_100) + sound_track("libmp3lame", "mp3", 1, 48_000),
        "a4.raw": sound_file(tone(0.5)),
        "a4b.RAW": np.random.default_rng(0).bytes(5000),
        "a5.wav": sound_file(np.concatenate([tone(), -tone()], 1)),
        "a7.wav": sound_file(np.full((16_000, 1), 3e38, np.float32), subtype="FLOAT"),
        "a8.ogg": 2 * sound_file(tone(0.5), format="OGG"),
        "v1.mp4": trimmed(video(60), 33, 50),
        "v2.mp4": video(12, size=(2, 32)),
        "v3.ts": video(20, format="mpegts") + video(12, format="mpegts"),
        "i1.jpg": POSTSCRIPT,
        "i2.png": with_chunk(png, chunk(b"zTXt", WORKFLOW)),
        "i3.png": with_chunk(png, chunk(b"tIME", bytes(7), checksum=1)),
        "i4.jpg": jpeg[:-20],
        "i4b.jpg": jpeg[: len(jpeg) // 3],
        "i5.heic": encoded(photo(), "HEIF"),
        "i5.avif": encoded(photo(), "AVIF"),
        "empty.mp4": b"",
        "good.jpg": jpeg,
    }  # fmt: skip


TIMES = 10
IN_TIME = 10.0  # seconds until a reader gives up; each of these files takes some milliseconds

REFUSED = {
    "a4b.RAW": False,
    "i1.jpg": True,
    "i4b.jpg": True,
    "empty.mp4": True,
    "f1.png": True,
}  # and said so


def test_every_file_of_a_folder_gets_its_line(tiny_senses_dir, tmp_path, capsys):
    folder = tmp_path / "all of them"
    folder.mkdir()
    for name, content in troubles().items():
        (folder / name).write_bytes(content)
    os.symlink("/proc/self/mem", folder / "f1.png")
    os.mkfifo(folder / "pipe.mp4")  # no file
    assert main(["caption", "--model", str(tiny_senses_dir), str(folder)]) == 2
    captured = capsys.readouterr()
    lines, errors = captured.out.splitlines(), captured.err
    described = {Path(line.split(": ")[0]).name for line in lines}
    assert described == troubles().keys() - REFUSED.keys() and len(lines) == len(described)
    for name, said in REFUSED.items():
        assert errors.count(f"/{name} ") == said, name
    assert "Passed over 1 file" in errors and "Traceback" not in errors


def test_a_good_file_is_read_in_time_after_each_bad_one_in_any_order(tmp_path):
    files = troubles()
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    order = [*files] * TIMES
    random.Random(0).shuffle(order)
    computed = set()
    with ReadingProcess(seconds=IN_TIME) as reader:
        for name in order:
            path = tmp_path / name
            try:
                recipe = RECIPES[reader.modality_of(path)]["starter"]
                opened = recipe.open(path, reader)
                assert name in computed or recipe(opened).isfinite().all()
            except EPALMError as error:
                assert str(error).startswith(str(path)) and not re.search("crash|takes more", str(error))
            computed.add(name)
            assert reader.read(files["good.jpg"], Reading("image")).size == (320, 240)
