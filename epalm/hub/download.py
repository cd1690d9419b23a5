"""Fetch one file over HTTP: resumed after an interruption, checked, and put in place in one step.

    from epalm.hub.download import download
    download("https://example.org/checkpoint_best.pth", Path("checkpoint_best.pth"), sha256="ed24…")

While it grows, the file has a `.part` name next to its final one; an interrupted download leaves it there,
and the next call asks the server only for the rest. The final name appears when the file is complete and its
size and hash are right.
"""

import hashlib
import http.client
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from email.message import Message
from pathlib import Path

from filelock import FileLock, Timeout

from epalm.errors import EPALMError
from epalm.files import sha256_of

TRIES = 3  # attempts in a row without a new byte
PAUSE = 1.0  # seconds before the second attempt; doubled before each further one
CHUNK = 1 << 20  # bytes per read, and between two calls of `progress`
TIMEOUT = 30.0  # seconds without a byte before the connection counts as lost

# Told the bytes so far, and the bytes in all or None if the server does not say.
Progress = Callable[[int, int | None], None]


def download(
    url: str,
    path: Path,
    *,
    size: int | None = None,
    sha256: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Fetch `url` to `path` and return `path`; a file that is already there and right is not fetched again.

    `size` (bytes) and `sha256` (hex) are checked where given. Raises EPALMError, naming the source, if the
    server refuses, cannot be reached, or sends a web page, a short file or another file.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock", timeout=0):
            if path.exists() and _is(path, size, sha256):
                return path
            # The source is part of the name: bytes of one server are never continued with those of another.
            part = path.with_name(f"{path.name}.{hashlib.sha256(url.encode()).hexdigest()[:8]}.part")
            _fetch(url, part, size, progress)
            _check(url, part, size, sha256)
            os.replace(part, path)
            return path
    except Timeout:
        raise EPALMError(
            f"Another process is downloading {path.name} from {url} to {path.parent}: wait until it has "
            "finished, then try again."
        ) from None
    except OSError as error:
        raise EPALMError(f"{url} could not be written to {path}: {error.strerror or error}.") from error


class _Lost(Exception):
    """The connection failed in a way that another attempt may mend; the message says how."""


def _fetch(url: str, part: Path, size: int | None, progress: Progress | None) -> None:
    failed = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            return _attempt(url, part, size, progress)
        except _Lost as lost:
            reached = part.stat().st_size if part.exists() else 0
            failed = 1 if reached > before else failed + 1
            if failed >= TRIES:
                advice = (
                    f"the {reached:,} bytes so far are kept, so try again later to resume"
                    if reached
                    else "check the network and try again"
                )
                raise EPALMError(f"{url} could not be downloaded ({lost}); {advice}.") from None
            time.sleep(PAUSE * 2 ** (failed - 1))


def _attempt(url: str, part: Path, size: int | None, progress: Progress | None) -> None:
    """One request, from the end of `part` on. Returns when the server has sent all it announced."""
    have = part.stat().st_size if part.exists() else 0
    if have and have == size:
        return
    # Compressed transfer would make offsets and lengths those of another byte stream.
    request = urllib.request.Request(url, headers={"Accept-Encoding": "identity", "User-Agent": "epalm"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416 and _total(error.headers) == have:
                return  # `part` was complete already
            if error.code == 416:
                part.unlink()
                raise _Lost("the partial file did not fit the server's") from None
            if error.code in (408, 429) or error.code >= 500:
                raise _Lost(f"the server answers {error.code} {error.reason}") from None
            raise EPALMError(
                f"{url} cannot be downloaded: the server answers {error.code} {error.reason}; the link may "
                "have moved, so get the file by hand and pass its path."
            ) from None
    except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
        raise _Lost(f"no answer: {_reason(error)}") from None

    with response:
        _refuse_web_page(url, response)
        resumed = response.status == 206 and _start(response.headers) == have
        if response.status == 206 and not resumed:
            part.unlink()
            raise _Lost("the server resumed at another place")
        done = have if resumed else 0
        length = response.headers.get("Content-Length")
        total = done + int(length) if length else size
        with part.open("ab" if resumed else "wb") as file:
            while chunk := _read(response):
                file.write(chunk)
                done += len(chunk)
                if progress:
                    progress(done, total)
    if total is not None and done < total:
        raise _Lost(f"the connection closed after {done:,} of {total:,} bytes")


def _read(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read1(CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise _Lost(f"the connection broke: {_reason(error)}") from None


def _refuse_web_page(url: str, response: http.client.HTTPResponse) -> None:
    """File hosts answer 200 with a page: to confirm a large file, to log in, to say that a share is gone."""
    kind = response.headers.get_content_type()
    try:
        head = b"" if response.status == 206 else response.peek(512)[:512].lstrip().lower()
    except (OSError, http.client.HTTPException) as error:
        raise _Lost(f"the connection broke: {_reason(error)}") from None
    if kind in ("text/html", "application/xhtml+xml") or head.startswith((b"<!doctype html", b"<html")):
        raise EPALMError(
            f"{url} answers with a web page instead of the file (to confirm, to log in, or 'not found'): "
            "open it in a browser, save the file there and pass its path."
        )


def _check(url: str, part: Path, size: int | None, sha256: str | None) -> None:
    got = part.stat().st_size
    if size is not None and got != size:
        part.unlink()
        raise EPALMError(
            f"{url} gave {got:,} bytes where {size:,} were expected: that is another file, so get "
            "the right one by hand and pass its path."
        )
    if sha256 is not None and (digest := sha256_of(part)) != sha256.lower():
        part.unlink()
        raise EPALMError(
            f"{url} gave a file with sha256 {digest[:12]}… where {sha256[:12].lower()}… was expected: it is "
            "damaged or another file, was removed, and can be downloaded again."
        )


def _is(path: Path, size: int | None, sha256: str | None) -> bool:
    return (size is None or path.stat().st_size == size) and (
        sha256 is None or sha256_of(path) == sha256.lower()
    )


def _start(headers: Message) -> int | None:
    match = re.match(r"bytes (\d+)-", headers.get("Content-Range", ""))
    return int(match[1]) if match else None


def _total(headers: Message) -> int | None:
    match = re.search(r"/(\d+)$", headers.get("Content-Range", ""))
    return int(match[1]) if match else None


def _reason(error: BaseException) -> str:
    cause = getattr(error, "reason", error)
    return getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
