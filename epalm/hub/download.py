"""Fetch one file from the Hugging Face Hub or over plain HTTP: resumable, checked, atomic.

    from epalm.hub.download import download, download_from_hub
    download_from_hub("mshukor/eP-ALM", "checkpoint_best.pth", "3eb6…", sha256="ed24…")
    download("https://example.org/checkpoint_best.pth", Path("checkpoint_best.pth"), sha256="ed24…")

The Hub's library keeps files in its own cache. Over plain HTTP, the file has a `.part` name next to its final
one while it grows; an interrupted download leaves it there, and the next call requests only the rest. The
final name appears once the file is complete and its size and hash are right.
"""

import hashlib
import http.client
import io
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from email.message import Message
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from epalm.errors import EPALMError, reason
from epalm.files import sha256_of

TRIES = 3  # consecutive attempts without a new byte
PAUSE = 1.0  # seconds before the second attempt; doubles before each further one
CHUNK = 1 << 20  # bytes per read and per call of `progress`
TIMEOUT = 30.0  # seconds without a byte before the connection counts as lost

# Called with the bytes so far and the total, or None if the server does not send it.
Progress = Callable[[int, int | None], None]


def download_from_hub(
    repo: str,
    file: str,
    revision: str,
    *,
    repo_type: str = "space",
    sha256: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Fetch `file` of a repository at a commit into the Hub's cache and return its path there.

    Raises:
        EPALMError: the Hub cannot be reached, does not have the file, or sent one with another hash.
    """
    from httpx2 import HTTPError  # not needed to list published models
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    bar = None if progress is None else _bar_for(progress)
    try:
        path = Path(hf_hub_download(repo, file, repo_type=repo_type, revision=revision, tqdm_class=bar))
    except (OSError, ValueError, HfHubHTTPError, HTTPError) as error:
        raise EPALMError(
            f"{file} of {repo} could not be downloaded from the Hugging Face Hub ({reason(error)})."
        ) from error
    if sha256 is not None and (digest := sha256_of(path)) != sha256.lower():
        for name in (path.resolve(), path):  # the cache's copy and the link to it
            name.unlink(missing_ok=True)
        raise _wrong_hash(f"{file} of {repo}", digest, sha256)
    return path


def _bar_for(progress: Progress) -> Any:
    """A progress bar class for the Hub's library that calls `progress` instead of drawing."""
    from tqdm import tqdm

    class Bar(tqdm):
        def __init__(self, *args: Any, **options: Any):
            super().__init__(*args, **options | {"file": io.StringIO()})

        def update(self, n: float | None = 1) -> bool | None:
            drawn = super().update(n)
            progress(int(self.n), None if self.total is None else int(self.total))
            return drawn

    return Bar


def _wrong_hash(name: str, found: str, expected: str) -> EPALMError:
    return EPALMError(
        f"{name} has sha256 {found[:12]}… where {expected[:12].lower()}… was expected: it is damaged or "
        "another file, was removed, and can be downloaded again."
    )


def download(
    url: str,
    path: Path,
    *,
    size: int | None = None,
    sha256: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Fetch `url` to `path` and return `path`; an intact file that is already there is not fetched again.

    Args:
        size, sha256: expected bytes and hex digest; None skips the check.
    Raises:
        EPALMError: the server refuses, cannot be reached, or sends a web page, a truncated file or another
            file.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock", timeout=0):
            if path.exists() and _is(path, size, sha256):
                return path
            # The URL is part of the name, so one server's bytes are never continued with another's.
            part = path.with_name(f"{path.name}.{hashlib.sha256(url.encode()).hexdigest()[:8]}.part")
            _fetch(url, part, size, progress)
            _check(url, part, size, sha256)
            os.replace(part, path)
            return path
    except Timeout:
        raise EPALMError(
            f"Another process is downloading {path.name} from {url} to {path.parent}; try again when it has "
            "finished."
        ) from None
    except OSError as error:
        raise EPALMError(f"{url} could not be written to {path}: {error.strerror or error}.") from error


class _Lost(Exception):
    """The connection failed in a way that another attempt may fix; the message says how."""


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
                    f"the {reached:,} bytes so far are kept; try again later to resume"
                    if reached
                    else "check the network and try again"
                )
                raise EPALMError(f"{url} could not be downloaded ({lost}); {advice}.") from None
            time.sleep(PAUSE * 2 ** (failed - 1))


def _attempt(url: str, part: Path, size: int | None, progress: Progress | None) -> None:
    """One request, starting at the end of `part`; returns when the server has sent all that it announced."""
    have = part.stat().st_size if part.exists() else 0
    if have and have == size:
        return
    # With compression, offsets and lengths would refer to the compressed bytes.
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
                raise _Lost("the partial file did not match the server's") from None
            if error.code in (408, 429) or error.code >= 500:
                raise _Lost(f"the server answers {error.code} {error.reason}") from None
            raise EPALMError(
                f"{url} cannot be downloaded: the server answers {error.code} {error.reason}; the link may "
                "have moved, so download the file by hand and pass its path."
            ) from None
    except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
        raise _Lost(f"no answer: {_reason(error)}") from None

    with response:
        _refuse_web_page(url, response)
        resumed = response.status == 206 and _start(response.headers) == have
        if response.status == 206 and not resumed:
            part.unlink()
            raise _Lost("the server resumed at another position")
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
    """File hosts answer 200 with a page that asks to confirm or log in, or says that the share is gone."""
    kind = response.headers.get_content_type()
    try:
        head = b"" if response.status == 206 else response.peek(512)[:512].lstrip().lower()
    except (OSError, http.client.HTTPException) as error:
        raise _Lost(f"the connection broke: {_reason(error)}") from None
    if kind in ("text/html", "application/xhtml+xml") or head.startswith((b"<!doctype html", b"<html")):
        raise EPALMError(
            f"{url} answers with a web page instead of the file (to confirm, to log in, or 'not found'): "
            "open it in a browser, save the file and pass its path."
        )


def _check(url: str, part: Path, size: int | None, sha256: str | None) -> None:
    got = part.stat().st_size
    if size is not None and got != size:
        part.unlink()
        raise EPALMError(
            f"{url} sent {got:,} bytes where {size:,} were expected: that is another file, so download the "
            "right one by hand and pass its path."
        )
    if sha256 is not None and (digest := sha256_of(part)) != sha256.lower():
        part.unlink()
        raise _wrong_hash(f"The file from {url}", digest, sha256)


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
