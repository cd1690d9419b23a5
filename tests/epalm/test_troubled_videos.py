"""Videos as people have them: trimmed without encoding, joined, tiny."""

from io import BytesIO

import numpy as np
import pytest

from epalm.media.container import modality_of
from epalm.media.recipes import RECIPES
from epalm.media.video import frame_indices, open_video
from tests.epalm.test_video import brightness, grey, video


def trimmed(movie: bytes, first: int, last: int) -> bytes:
    """An MP4 of 25 frames per second of which a player shows frames `first` up to `last`, as phones trim."""
    movie = bytearray(movie)
    scales = {}
    for box in (b"mvhd", b"mdhd"):
        start = movie.index(box) + 16
        scales[box] = int.from_bytes(movie[start : start + 4], "big")
    start = movie.index(b"elst") + 12
    begins = int.from_bytes(movie[start + 4 : start + 8], "big") + first * scales[b"mdhd"] // 25
    movie[start : start + 4] = ((last - first) * scales[b"mvhd"] // 25).to_bytes(4, "big")
    movie[start + 4 : start + 8] = begins.to_bytes(4, "big")
    return bytes(movie)


@pytest.mark.parametrize("first", [1, 3, 9, 12, 20, 33, 41])
@pytest.mark.parametrize("last", [50, 60])
def test_a_trimmed_video_shows_the_frames_that_a_player_shows(tmp_path, first, last):
    path = tmp_path / "cut.mp4"
    path.write_bytes(trimmed(video(60), first, last))
    clip = open_video(path, 8)
    shown = [first + index for index in frame_indices(last - first, 8, "middle", 25)]
    assert brightness(clip) == pytest.approx([grey(i, 60) for i in shown], abs=3)
    assert clip.times == pytest.approx([(i - first) / 25 for i in shown], abs=0.021)
    assert clip.duration == pytest.approx((last - first) / 25, abs=0.041)


@pytest.mark.parametrize("codec", ["libx264", "libvpx", "libvpx-vp9"])
@pytest.mark.parametrize("width", [2, 4, 6, 8, 12, 16, 24, 48, 72, 80, 100])
def test_videos_of_any_width_are_read(tmp_path, codec, width):
    path = tmp_path / "narrow.bin"
    path.write_bytes(video(12, codec=codec, format="matroska", size=(width, 32)))
    recipe = RECIPES["video"]["starter"]
    clip = recipe.open(path)
    assert clip.frames.shape == (8, 32, width, 3)
    assert np.diff(brightness(clip)).min() > 5
    assert recipe(clip).isfinite().all()


@pytest.mark.parametrize(
    ("codec", "format"), [("libx264", "mpegts"), ("mpeg2video", "mpegts"), ("mpeg2video", "vob")]
)
def test_all_of_joined_videos_is_seen(tmp_path, codec, format):
    path = tmp_path / "joined"
    path.write_bytes(b"".join(video(length, codec=codec, format=format) for length in (40, 24, 16)))
    assert modality_of(path) == "video"
    clip = open_video(path, 10)
    places = frame_indices(80, 10, "middle", 25)
    shown = [(i, 40) if i < 40 else (i - 40, 24) if i < 64 else (i - 64, 16) for i in places]
    assert brightness(clip) == pytest.approx([grey(i, length) for i, length in shown], abs=4)
    assert clip.times == pytest.approx([i / 25 for i in places], abs=0.081)
    assert clip.duration == pytest.approx(80 / 25, abs=0.13)


def test_very_wide_frames_are_reduced():
    clip = open_video(video(2, size=(8192, 1024)), 2)
    assert clip.frames.shape[1] * clip.frames.shape[2] <= 6_000_000


def test_frames_of_another_size_in_a_joined_video_are_made_alike(tmp_path):
    path = tmp_path / "joined.ts"
    parts = (video(20, format="mpegts", size=size) for size in ((64, 48), (128, 96)))
    path.write_bytes(b"".join(parts))
    assert open_video(path, 8).frames.shape == (8, 48, 64, 3)


def test_a_video_without_an_end_is_read_as_far_as_it_goes():
    whole = BytesIO(video(60, format="mpegts")).getvalue()
    assert open_video(whole[: len(whole) // 2], 8).frames.shape == (8, 48, 64, 3)
