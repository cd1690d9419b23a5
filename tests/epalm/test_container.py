"""What a file is follows from its content, never from its name."""

from importlib.resources import files
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from epalm.errors import EPALMError
from epalm.media.container import modality_of
from tests.epalm.test_audio import encoded, sound_file, tone
from tests.epalm.test_video import video

REAL = files("gradio") / "media_assets"


def image(format: str, **options) -> bytes:
    buffer = BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, format, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("folder", "modality"), [("images", "image"), ("videos", "video"), ("audio", "audio")]
)
def test_real_files(folder, modality):
    paths = [path for path in (REAL / folder).iterdir() if path.suffix not in (".py", ".svg")]
    assert len(paths) >= 5 and {modality_of(path) for path in paths} == {modality}


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "PPM", "ICO", "TGA"])
def test_images(format):
    assert modality_of(image(format)) == "image"


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_animated_images_are_images(format):
    frames = [Image.new("RGB", (64, 48), (i, 0, 0)) for i in (0, 99, 199)]
    assert modality_of(image(format, save_all=True, append_images=frames)) == "image"


def test_damaged_image_is_still_an_image():
    assert modality_of(image("JPEG")[:40]) == modality_of(image("PNG")[:20]) == "image"


@pytest.mark.parametrize("source", [Image.new("RGB", (4, 4)), np.zeros((4, 4, 3), np.uint8)])
def test_pictures_in_memory_are_images(source):
    assert modality_of(source) == "image"


@pytest.mark.parametrize(
    ("codec", "format"),
    [
        ("libx264", "mp4"),
        ("libvpx-vp9", "webm"),
        ("mpeg4", "avi"),
        ("mpeg2video", "mpeg"),
        ("libx264", "mpegts"),
    ],
)
def test_videos(codec, format):
    assert modality_of(video(5, codec=codec, format=format)) == "video"


def test_film_with_and_without_pictures():
    assert modality_of(encoded(tone(0.2, 48_000), "aac", "mp4", pictures=True)) == "video"
    assert modality_of(encoded(tone(0.2, 48_000), "aac", "mp4")) == "audio"
    assert modality_of(encoded(tone(0.2, 48_000), "libopus", "webm")) == "audio"


@pytest.mark.parametrize("format", ["WAV", "FLAC", "OGG", "MP3", "AIFF", "RF64", "PVF"])
def test_sounds(format):
    assert modality_of(sound_file(tone(0.2), format=format)) == "audio"


def test_song_with_a_cover_picture_is_audio():
    cover = image("PNG")
    picture = b"\0image/png\0\3\0" + cover
    frame = b"APIC" + len(picture).to_bytes(4, "big") + b"\0\0" + picture
    size = len(frame)
    synchsafe = bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0))
    song = b"ID3\3\0\0" + synchsafe + frame + sound_file(tone(0.5), format="MP3")
    assert modality_of(song) == "audio"


def test_names_do_not_matter(tmp_path):
    for name, content, modality in (
        ("a.jpg", video(5), "video"),
        ("b.mp4", sound_file(tone(0.2)), "audio"),
        ("c.mp3", image("PNG"), "image"),
        ("d", video(5, codec="libvpx-vp9", format="webm"), "video"),
        ("e.raw", sound_file(tone(0.2), format="FLAC"), "audio"),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        assert modality_of(path) == modality_of(str(path)) == modality


@pytest.mark.parametrize(
    "content",
    [
        b"plain words\n" * 99,
        bytes(5000),
        np.random.default_rng(0).bytes(20_000),
        b"%PDF-1.7\n" + bytes(500),
        b"PK\3\4" + bytes(500),
        b"#EXTM3U\n#EXTINF:10,\nhttp://127.0.0.1/a.ts\n#EXT-X-ENDLIST\n",
        b"ffconcat version 1.0\nfile /etc/hostname\n",
        b"1\n00:00:01,000 --> 00:00:02,000\nA subtitle\n\n" * 9,
        b"<html><body>words</body></html>" * 20,
    ],
    ids=["text", "zeros", "noise", "pdf", "zip", "playlist", "file list", "subtitles", "html"],
)
def test_anything_else_is_refused(tmp_path, content):
    path = tmp_path / "notes.mp4"
    path.write_bytes(content)
    with pytest.raises(EPALMError, match=r"notes\.mp4 is neither an image nor a video nor a sound"):
        modality_of(path)


def test_missing_empty_and_folder(tmp_path):
    (tmp_path / "empty.mp4").touch()
    for path, end in (
        ("none", "does not exist."),
        ("empty.mp4", "is empty."),
        ("", "is a folder, not a file."),
    ):
        with pytest.raises(EPALMError) as error:
            modality_of(tmp_path / path)
        assert str(error.value).startswith(str(tmp_path)) and str(error.value).endswith(end)


def test_what_is_no_file_at_all_is_refused():
    with pytest.raises(EPALMError, match="A list is not one file: give a path, or the bytes of a file."):
        modality_of(["a.jpg", "b.jpg"])
