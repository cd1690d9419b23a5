"""Videos: the frames that the original would take, read upright from any file or refused in one sentence."""

import json
import math
import struct
from contextlib import suppress
from fractions import Fraction
from importlib.resources import files
from pathlib import Path
from tempfile import NamedTemporaryFile

import av
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import epalm.media.video
from epalm.errors import EPALMError
from epalm.media.container import decoded
from epalm.media.recipes import RECIPES, VideoRecipe
from epalm.media.video import Clip, fps_indices, frame_indices, open_video

GOLDEN = Path(__file__).parents[1] / "golden" / "extras"
REAL = files("gradio") / "media_assets" / "videos"


@pytest.fixture
def read(monkeypatch, tmp_path):
    """open_video(content, frames) from a file."""
    path = tmp_path / "The file"
    monkeypatch.chdir(tmp_path)

    def read(content: bytes, frames: int = 8) -> Clip:
        path.write_bytes(content)
        return open_video(path.name, frames)

    return read


def video(
    length=30, times=None, codec="libx264", format="mp4", rotation=0, size=(64, 48), coding=None, **options
) -> bytes:
    """Grey frames, each lighter than the one before, with a red top left corner; 25 per second."""
    with NamedTemporaryFile() as file:  # with a name: faststart reads the file again
        with av.open(file.name, "w", format=format, options=options) as container:
            stream = container.add_stream(codec, rate=25)
            stream.width, stream.height = size
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            stream.gop_size, stream.bit_rate = 10, 1_000_000
            stream.options = coding or {}
            unit = Fraction(1, 25) if times is None else Fraction(1, 1000)
            stream.time_base = stream.codec_context.time_base = unit
            for i in range(length):
                pixels = np.full((size[1], size[0], 3), grey(i, length), np.uint8)
                pixels[: size[1] // 4, : size[0] // 4] = 255, 0, 0
                frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
                frame.pts = i if times is None else round(1000 * times[i])
                frame.time_base = unit
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        content = Path(file.name).read_bytes()
        return turned(content, rotation) if rotation else content


def turned(content: bytes, degrees: int) -> bytes:
    """An MP4 file whose frames are to be shown turned counterclockwise, as its header says."""
    cos, sin = round(math.cos(math.radians(degrees))), -round(math.sin(math.radians(degrees)))
    matrix = struct.pack(">4i", cos << 16, sin << 16, 0, -sin << 16) + struct.pack(">i", cos << 16)
    start = content.index(b"tkhd") + 44
    return content[:start] + matrix + content[start + len(matrix) :]


def grey(index: float, length: int) -> float:
    return 250 * index / max(1, length - 1)


def brightness(clip: Clip) -> list[float]:
    """Of a patch in the middle of each frame."""
    _, height, width, _ = clip.frames.shape
    return clip.frames[:, height // 2, width // 2].mean(-1).tolist()


# Which frames


@pytest.mark.parametrize("case", json.loads((GOLDEN / "frame_indices.json").read_text()), ids=str)
def test_frame_indices_equal_the_originals(case):
    length, frames, mode = case["vlen"], case["num_frames"], case["mode"]
    if mode == "uniform":  # which the original names in its settings and refuses
        assert case["indices"] == "ValueError"
    elif mode.startswith("fps"):
        assert fps_indices(length, float(mode[3:]), case["input_fps"]) == case["indices"]
    else:
        assert frame_indices(length, frames, mode, case["input_fps"], seed=7) == case["indices"]


def test_uniform_goes_from_the_first_frame_to_the_last():
    assert frame_indices(100, 4, "uniform", 25) == [0, 33, 66, 99]
    assert frame_indices(3, 5, "uniform", 25) == [0, 1, 2, 2, 2]
    assert frame_indices(1, 2, "uniform", 25) == [0, 0]


def test_fps_gives_the_wanted_number_of_frames_too():
    assert frame_indices(1000, 4, "fps1", 25) == [12, 38, 62, 88]  # the first four seconds
    assert frame_indices(100, 4, "fps0.5", 25) == [25, 75, 75, 75]
    assert frame_indices(8, 4, "fps0.5", 25) == [4, 4, 4, 4]  # shorter than half of two seconds


def test_random_frames_are_chosen_by_the_seed_alone():
    first = frame_indices(500, 16, "rand", 25, seed=1)
    np.random.seed(0)
    assert first == frame_indices(500, 16, "rand", 25, seed=1) != frame_indices(500, 16, "rand", 25, seed=2)


@pytest.mark.parametrize("sampling", ["first", "fps", "fps0", "fps-1", "middle "])
def test_unknown_sampling_is_refused(sampling):
    with pytest.raises(EPALMError, match=r"must be middle, rand, uniform, or fps"):
        frame_indices(10, 4, sampling, 25)


# Reading


@pytest.mark.parametrize(
    ("codec", "format"),
    [("libx264", "mp4"), ("libvpx-vp9", "webm"), ("libx264", "matroska"), ("mpeg4", "avi"), ("mjpeg", "mov"),
     ("libx265", "mp4"), ("libx264", "mpegts"), ("mpeg2video", "mpeg"), ("flv", "flv"),
     ("libx264", "h264")],
)  # fmt: skip
def test_every_container_gives_the_frames_asked_for(read, codec, format):
    clip = read(video(50, codec=codec, format=format), 8)
    indices = frame_indices(50, 8, "middle", 25)
    assert clip.frames.shape == (8, 48, 64, 3) and clip.frames.dtype == np.uint8
    assert brightness(clip) == pytest.approx([grey(i, 50) for i in indices], abs=3)
    assert clip.times == pytest.approx([i / 25 for i in indices], abs=0.021)  # MPEG: half a frame off
    assert clip.duration == pytest.approx(2.0, abs=0.041)


def test_paths_and_bytes_give_the_same(tmp_path):
    path = tmp_path / "ein Vidéo 1.bin"
    path.write_bytes(video())
    clips = [open_video(source) for source in (path, str(path), path.read_bytes())]
    assert all(np.abs(clip.frames.astype(int) - clips[0].frames).mean() < 1 for clip in clips)


def test_variable_frame_rate_has_true_times(read):
    times = np.cumsum(np.random.default_rng(0).uniform(0.01, 0.4, 30))
    clip = read(video(30, times=times), 8)
    indices = frame_indices(30, 8, "middle", 25)
    assert clip.times == pytest.approx(times[indices] - times[0], abs=2e-3)
    assert brightness(clip) == pytest.approx([grey(i, 30) for i in indices], abs=3)


def test_a_single_frame_is_repeated(read):
    clip = read(video(1), 8)
    assert clip.frames.shape == (8, 48, 64, 3) and clip.times == (0,) * 8


@pytest.mark.parametrize(
    ("rotation", "shape", "corner"),
    [(-90, (64, 48), (0, -1)), (90, (64, 48), (-1, 0)), (180, (48, 64), (-1, -1)), (0, (48, 64), (0, 0))],
)
def test_portraits_are_upright(read, rotation, shape, corner):
    clip = read(video(10, rotation=rotation), 4)
    assert clip.frames.shape[1:3] == shape
    red, green, blue = clip.frames[0][corner].tolist()
    assert red > 200 and green < 60 and blue < 60


@pytest.mark.parametrize("format", ["mp4", "mpegts"])
def test_only_the_frames_needed_are_decoded(monkeypatch, format):
    count = 0

    def counting(container, stream, wanted=()):
        nonlocal count
        for frame in decoded(container, stream, wanted):
            count += 1
            yield frame

    monkeypatch.setattr(epalm.media.video, "decoded", counting)
    content = video(1000, format=format, preset="ultrafast")
    clip = open_video(content, 4)
    assert clip.times == pytest.approx([124 / 25, 374 / 25, 624 / 25, 874 / 25], abs=1e-3)
    assert count < 4 * (25 + 25)  # in MPEG streams from up to a second before, else from the key frame


def test_frames_from_which_none_is_predicted_are_left_out(monkeypatch):
    """Of a group of frames with three B-frames between two others, and the frames that are taken are the
    same as where everything is decoded."""
    counts = []

    def counting(everything):
        def count(container, stream, wanted=()):
            for frame in decoded(container, stream, () if everything else wanted):
                counts[-1] += 1
                yield frame

        return count

    content = video(400, coding={"x264-params": "keyint=40:scenecut=0:bframes=3:b-pyramid=none:b-adapt=0"})
    clips = []
    for everything in (True, False):
        counts.append(0)
        monkeypatch.setattr(epalm.media.video, "decoded", counting(everything))
        clips.append(open_video(content, 5))
    assert np.array_equal(clips[0].frames, clips[1].frames) and clips[0].times == clips[1].times
    assert counts[1] < 0.5 * counts[0]


def test_very_large_frames_are_reduced(monkeypatch, read):
    monkeypatch.setattr(epalm.media.video, "ENOUGH_PIXELS", 20)
    assert read(video(4), 2).frames.shape == (2, 24, 32, 3)


@pytest.mark.parametrize("name", ["a.mp4", "b.avi", "b.mp4", "muted_b.mp4", "world.mp4"])
def test_real_files(name):
    path = REAL / name
    clip = open_video(path, 4)
    with av.open(str(path)) as container:
        every = {round(frame.time, 2): frame for frame in container.decode(video=0)}
    first = min(every)
    for pixels, time in zip(clip.frames, clip.times, strict=True):
        expected = every[min(every, key=lambda t: abs(t - first - time))].to_ndarray(format="rgb24")
        assert np.abs(pixels.astype(int) - expected).mean() < 1


# Damage


def test_what_is_left_of_a_truncated_video_is_used(read):
    whole = video(60, movflags="faststart")
    clip = read(whole[: len(whole) * 2 // 3], 8)
    assert clip.frames.shape[0] == 8 and 0.5 < clip.duration < 2.0
    assert brightness(clip) == pytest.approx([grey(25 * time, 60) for time in clip.times], abs=3)


def test_a_hole_is_filled_with_neighbours(read):
    whole = bytearray(video(60, movflags="faststart"))
    start = whole.find(b"mdat") + 600
    whole[start : start + 500] = bytes(500)
    clip = read(bytes(whole), 16)
    assert clip.frames.shape[0] == 16 and list(clip.times) == sorted(clip.times)


def without_frames() -> bytes:
    whole = video(30)
    start = whole.find(b"mdat") + 4
    return whole[:start] + bytes(whole.find(b"moov") - 4 - start) + whole[whole.find(b"moov") - 4 :]


UNREADABLE = "The file is not a video that can be read, or it is damaged or incomplete."
NO_PICTURE = "The file has no frame that can be read: it is damaged, incomplete or empty."


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "The file is empty."),
        (b"plain words\n" * 99, UNREADABLE),
        (b"#EXTM3U\n#EXTINF:10,\nhttp://127.0.0.1/a.ts\n", UNREADABLE),
        (video()[:1500], UNREADABLE),
        (without_frames(), NO_PICTURE),
    ],
    ids=["empty", "text", "playlist", "index cut off", "no frames"],
)
def test_bad_content_is_refused_in_one_sentence(read, content, sentence):
    with pytest.raises(EPALMError) as error:
        read(content)
    assert str(error.value) == sentence


def test_bad_paths_are_refused_in_one_sentence(tmp_path):
    with pytest.raises(EPALMError, match=r"none\.mp4 does not exist\.$"):
        open_video(tmp_path / "none.mp4")
    with pytest.raises(EPALMError, match=r"is a folder, not a file\.$"):
        open_video(tmp_path)
    with pytest.raises(EPALMError, match=r"sax\.wav has no pictures"):
        open_video(files("gradio") / "media_assets" / "audio" / "sax.wav")


def test_decoders_do_not_write_to_the_terminal(read, capfd):
    whole = video(60, movflags="faststart")
    hole = whole[:2500] + bytes(500) + whole[3000:]
    for content in (whole[: len(whole) // 2], hole, whole[:1000], b"words " * 99, b"", without_frames()):
        with suppress(EPALMError):
            read(content)
    assert capfd.readouterr() == ("", "")


# Recipes


@pytest.mark.parametrize("antialias", [False, True])
def test_recipe_equals_the_originals_transform(antialias):
    golden = load_file(GOLDEN / "preprocess.safetensors")
    frames = golden["video_uint8_tchw"].permute(0, 2, 3, 1).numpy()
    recipe = VideoRecipe.from_dict(
        {**RECIPES["video"]["epalm-video-8"].to_dict(), "size": 32, "antialias": antialias}
    )
    out = recipe(Clip(frames, (0.0, 1.0, 2.0), 3.0))
    expected = golden[f"video_test_transform_32_antialias{antialias}"]
    assert out.dtype == torch.float32 and out.shape == expected.shape == (3, 3, 32, 32)
    assert (out - expected).abs().max() < 1e-6


@pytest.mark.parametrize("frames", [8, 16])
def test_recipe_from_file_to_tensor(frames):
    recipe = RECIPES["video"][f"epalm-video-{frames}"]
    pixels = recipe(recipe.open(video(30)))
    assert pixels.shape == (3, frames, 224, 224) and pixels.dtype == torch.float32
    assert (pixels == recipe(recipe.open(video(30)))).all()
    steps = pixels[:, :, 112, 112].mean(0).diff()
    assert (steps > 0).all()  # frames are the second axis, in order


@pytest.mark.parametrize("recipe", RECIPES["video"].values(), ids=RECIPES["video"])
def test_recipe_survives_json(recipe):
    assert VideoRecipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


@pytest.mark.parametrize(
    "change", [{"sampling": "all"}, {"interpolation": "area"}, {"frames": "8"}, {"fps": 2}]
)
def test_bad_recipe_is_refused(change):
    with pytest.raises(EPALMError):
        VideoRecipe.from_dict({**RECIPES["video"]["epalm-video-8"].to_dict(), **change})
