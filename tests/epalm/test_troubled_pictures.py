"""Pictures as people have them: big notes, wrong checksums, lost ends, phones' formats, other documents."""

import struct
import subprocess
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from epalm.errors import EPALMError
from epalm.media.container import modality_of
from epalm.media.image import open_image
from tests.epalm.test_image import encoded, noise

POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 50 50\n%%EndComments\n{} loop\n%%EOF\n"


def photo(height=240, width=320) -> Image.Image:
    """Smooth, with some noise, as photos are."""
    across, down = np.meshgrid(np.linspace(0, 3, width), np.linspace(0, 2, height))
    waves = np.stack([np.sin(across * k + down) for k in (1, 2, 3)], -1) * 90 + 128
    return Image.fromarray((waves + noise(height, width, 3) / 16).clip(0, 255).astype(np.uint8))


def chunk(kind: bytes, body: bytes, checksum: int | None = None) -> bytes:
    right = zlib.crc32(kind + body)
    return (
        struct.pack(">I", len(body))
        + kind
        + body
        + struct.pack(">I", right if checksum is None else checksum)
    )


def with_chunk(png: bytes, added: bytes) -> bytes:
    """A PNG with a chunk after its header."""
    return png[:33] + added + png[33:]


# PNG

WORKFLOW = b"workflow\0\0" + zlib.compress(b'{"node": 1}' * 500_000)
PROFILE = b"profile\0\0" + zlib.compress(bytes(3_000_000))


@pytest.mark.parametrize(
    "added",
    [
        chunk(b"zTXt", WORKFLOW),
        chunk(b"iTXt", b"workflow\0\1\0\0\0" + zlib.compress(b"x" * 5_000_000)),
        chunk(b"tEXt", b"workflow\0" + b"x" * 5_000_000),
        b"".join(chunk(b"zTXt", WORKFLOW) for _ in range(20)),
        chunk(b"iCCP", PROFILE),
        chunk(b"tEXt", b"Comment\0hello", checksum=1),
        chunk(b"tIME", bytes(7), checksum=1),
        chunk(b"iCCP", b"damaged", checksum=1),
        chunk(b"eXIf", b"damaged"),
        chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(bytes(9_000_000))),
        chunk(b"pHYs", b"short"),
        chunk(b"gAMA", b""),
        chunk(b"prVt", bytes(999)),
    ],
    ids=["text", "utf-8 text", "plain text", "many texts", "profile", "text's checksum", "time's checksum",
         "profile's checksum", "exif", "exif bomb", "short size", "short gamma", "private"],
)  # fmt: skip
def test_notes_in_a_png_do_not_matter(added):
    picture = photo()
    content = with_chunk(encoded(picture), added)
    assert modality_of(content) == "image"
    assert (np.asarray(open_image(content)) == np.asarray(picture)).all()


def test_a_png_is_turned_by_its_exif_data():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert open_image(encoded(photo(), exif=exif)).size == (240, 320)
    xmp = PngImagePlugin.PngInfo()
    xmp.add_itxt("XML:com.adobe.xmp", '<x:xmpmeta tiff:Orientation="6"/>')
    assert open_image(encoded(photo(), pnginfo=xmp)).size == (240, 320)


@pytest.mark.parametrize("mode", ["P", "RGBA", "LA", "I;16", "1"])
def test_every_kind_of_png_looks_as_before(mode):
    picture = photo().convert("L").convert("I;16" if mode == "I;16" else mode)
    options = {"transparency": 3} if mode == "P" else {}
    assert (
        np.asarray(open_image(encoded(picture, **options))) == np.asarray(open_image(picture))
    ).all() or options


def test_an_animated_png_gives_its_first_picture():
    frames = [Image.new("RGB", (9, 9), (shade, 0, 0)) for shade in (200, 0, 50)]
    opened = open_image(encoded(frames[0], save_all=True, append_images=frames[1:]))
    assert opened.getpixel((4, 4)) == (200, 0, 0)


def test_a_png_without_its_end_mark_is_shown():
    picture = photo()
    for lost in (1, 4, 12):
        assert (np.asarray(open_image(encoded(picture)[:-lost])) == np.asarray(picture)).all()


def test_a_png_with_damaged_pixels_is_refused():
    content = bytearray(encoded(photo()))
    content[len(content) // 2] ^= 255
    with pytest.raises(EPALMError, match="damaged or incomplete"):
        open_image(bytes(content))


# JPEG


@pytest.mark.parametrize("lost", [1, 2, 3, 5, 20])
@pytest.mark.parametrize("size", [(240, 320), (64, 64), (16, 16), (1500, 2000)], ids=str)
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}], ids=str)
def test_a_jpeg_without_its_last_bytes_is_shown(lost, size, options):
    content = encoded(photo(*size), "JPEG", quality=90, **options)
    whole, cut = (np.asarray(open_image(c)).astype(int) for c in (content, content[:-lost]))
    assert cut.shape == whole.shape
    rows = max(32, size[0] // 10)
    assert np.abs(cut[:-rows] - whole[:-rows]).mean() < 3 if size[0] > rows else True


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_other_colours_without_the_last_bytes_are_shown(mode):
    content = encoded(photo().convert(mode), "JPEG", quality=90)
    assert open_image(content[:-20]).size == (320, 240)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_of_which_much_is_missing_is_refused(share, progressive):
    content = encoded(photo(), "JPEG", quality=90, progressive=progressive)
    with pytest.raises(EPALMError, match="damaged or incomplete"):
        open_image(content[: int(share * len(content))])


# Phones


@pytest.mark.parametrize("format", ["HEIF", "AVIF"])
def test_phones_pictures_are_read(tmp_path, format):
    path = tmp_path / "IMG_0001.HEIC"
    photo().save(path, format, quality=95)
    assert modality_of(path) == "image"
    opened = np.asarray(open_image(path)).astype(int)
    assert np.abs(opened - np.asarray(photo())).mean() < 6


# Other documents


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (POSTSCRIPT, "a PostScript file"),
        (b"\xc5\xd0\xd3\xc6" + struct.pack("<6I", 32, len(POSTSCRIPT), 0, 0, 0, 0) + bytes(4) + POSTSCRIPT,
         "a PostScript file"),
        (b"%PDF-1.7\n" + bytes(99), "a PDF document"),
        (b'\xef\xbb\xbf <?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG drawing"),
        (b"\xff\x0a" + bytes(99), "a JPEG XL picture"),
    ],
    ids=["postscript", "dos postscript", "pdf", "svg", "jpeg xl"],
)  # fmt: skip
def test_documents_are_refused_at_once_and_start_no_other_program(tmp_path, monkeypatch, content, kind):
    def started(*args, **options):
        raise AssertionError("another program was started")

    monkeypatch.setattr(subprocess, "Popen", started)
    monkeypatch.setattr("os.system", started)
    path = tmp_path / "holiday.jpg"
    path.write_bytes(content)
    for opening in (open_image, modality_of):
        with pytest.raises(
            EPALMError, match=f"holiday.jpg is n.* that can be read, but {kind}: save it as PNG"
        ):
            opening(path)


@pytest.mark.parametrize(
    ("format", "options"), [("PNG", {}), ("GIF", {}), ("TIFF", {"compression": "tiff_lzw"})]
)
def test_decompression_bombs_are_refused(format, options):
    with pytest.raises(EPALMError, match="million pixels"):
        open_image(encoded(Image.new("1", (20_000, 20_000)), format, **options))
