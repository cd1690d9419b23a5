"""Debian packages and Qt resource files, opened without installing anything."""

import shutil
import struct
import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path

from epalm.errors import EPALMError


def unpack(package: str, debs: Path, into: Path) -> Path:
    """Download a Debian package (unless `debs` has it) and unpack it to into/package; returns that folder.

    Raises:
        EPALMError: this is no Debian system, or the package cannot be downloaded.
    """
    target = into / package
    if target.is_dir():
        return target
    for program in ("apt-get", "dpkg-deb"):
        if shutil.which(program) is None:
            raise EPALMError(
                f"The pictures come in Debian packages, but this system has no {program}: build the starter "
                "adapters on Debian or Ubuntu, or in a container of either."
            )
    debs.mkdir(parents=True, exist_ok=True)
    if not list(debs.glob(f"{package}_*.deb")):
        result = subprocess.run(["apt-get", "download", package], cwd=debs, capture_output=True, text=True)
        if result.returncode:
            reason = (result.stderr.strip().splitlines() or ["no reason given"])[-1].removeprefix("E: ")
            raise EPALMError(
                f"apt-get could not download the package {package} ({reason}): check the network connection, "
                "and that apt-get update was run."
            )
    partial = into / f"{package}.part"
    shutil.rmtree(partial, ignore_errors=True)
    subprocess.run(["dpkg-deb", "-x", str(next(debs.glob(f"{package}_*.deb"))), str(partial)], check=True)
    partial.rename(target)
    return target


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
