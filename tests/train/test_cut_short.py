"""A download that stopped: the header says more than the file has."""

from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from train.data.check import CHECKS, check_audio, check_video

SECONDS = 6


def film(path: Path, codec: str, **options: str) -> Path:
    """Six seconds of noise, so that the size grows evenly."""
    rng = np.random.default_rng(0)
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(10 * SECONDS):
            frame = av.VideoFrame.from_ndarray(rng.integers(256, size=(48, 64, 3), dtype=np.uint8))
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def cut(path: Path, part: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mp4", "libx264", {"movflags": "faststart"}),
        ("a.mov", "libx264", {"movflags": "faststart"}),
        ("a.mkv", "libx264", {}),
        ("a.avi", "mpeg4", {}),
    ],
)
def test_a_video_that_is_cut_is_damaged_and_a_whole_one_is_not(name, codec, options, tmp_path):
    path = film(tmp_path / name, codec, **options)
    assert check_video(str(path)) is None
    cut(path, 0.3)
    problem = check_video(str(path))
    assert problem is not None and problem.startswith(str(path)) and problem.endswith(".")


def test_the_sentence_says_how_much_is_there(tmp_path):
    path = film(tmp_path / "a.mp4", "libx264", movflags="faststart")
    cut(path, 0.3)
    assert "its header says 6.0 s, but the file has only 1." in check_video(str(path))
    cut(path, 0.999)


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "AIFF"])
def test_a_sound_that_is_cut_is_damaged_and_a_whole_one_is_not(kind, tmp_path):
    path = tmp_path / f"a.{kind.lower()}"
    noise = np.random.default_rng(0).normal(0, 0.1, SECONDS * 16_000)
    soundfile.write(path, noise, 16_000, format=kind)
    assert check_audio(str(path)) is None
    cut(path, 0.3)
    assert check_audio(str(path)) is not None


@pytest.mark.parametrize("kind", ["OGG", "MP3"])
def test_a_sound_whose_header_has_no_length_is_taken_as_it_is(kind, tmp_path):
    path = tmp_path / f"a.{kind.lower()}"
    noise = np.random.default_rng(0).normal(0, 0.1, SECONDS * 16_000)
    soundfile.write(path, noise, 16_000, format=kind)
    assert check_audio(str(path)) is None
    cut(path, 0.5)
    assert check_audio(str(path)) is None


def test_the_last_bytes_may_lack(tmp_path):
    path = film(tmp_path / "a.mp4", "libx264", movflags="faststart")
    cut(path, 0.98)
    assert check_video(str(path)) is None


def test_every_modality_is_checked():
    assert CHECKS.keys() == {"image", "video", "audio"}
