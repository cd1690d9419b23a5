"""Damaged requests to a running demo: odd values, paths that are none of theirs, lost arguments, broken JSON.

A part of `python -m benchmarks.fuzz`. The files are good; what is asked about them is not.
"""

from __future__ import annotations

import json
import random
import re
import time
from pathlib import Path
from typing import Any, Self

import httpx
import psutil

from benchmarks.server import ROOT, Server, upload
from epalm.demo.problems import TITLES

GOOD_EVERY = 25  # requests; then a good one must have the answer that it had at first
PATIENCE = 60.0  # seconds until a request counts as unanswered

Row = dict[str, Any]

# What a number, a question, a model or a file might be instead.
ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 9, 0.5, 1e308, -1e-308, float("nan"), float("inf"), 10**30, 10**400, 2**63,
    "", " ", "\0", "1", "nan", "x" * 1001, "x" * 200_000, "\n" * 500, "ünï😀\u202e\ud800",
    "<script>alert(1)</script>", "{question}", "%s%n", "'; DROP TABLE", "../../../etc/passwd",
    [], {}, [[]], [1, 2, 3], {"path": None}, {"__type__": "update"}, {"__type__": "update", "value": "x"},
    [{"role": "user"}], "starter", "opt",
)  # fmt: skip
PATHS: tuple[Any, ...] = (
    "/etc/passwd", "/proc/self/environ", "/dev/zero", "/dev/stdin", "..", "../../etc/passwd", "", "\0", ".",
    "/", "http://127.0.0.1:9/x.jpg", "file:///etc/passwd", "app.py", "assets/examples/../../app.py",
    "x" * 5000, 7, [], None,
)  # fmt: skip
QUESTIONS = ("what is this?", "is this a cat?", "¿qué?", "what\nis\tit", "a" * 900, "?", "<b>what</b>", "{}")


class Demo:
    """A demo of its own, as a context manager, and what to send it.

    Args:
        folder: for its uploads.
    """

    def __init__(self, folder: Path):
        self.server = Server(folder / "uploads", port=7873)
        self.session = httpx.Client(timeout=PATIENCE)
        self.sent = 0

    def __enter__(self) -> Self:
        self.server.start()
        self.files = {
            modality: upload(self.session, self.server.url, ROOT / "assets" / "examples" / name)
            for modality, name in (("image", "cat.jpg"), ("video", "earth.mp4"), ("audio", "drums.flac"))
        }
        self.first = self._good()
        return self

    def __exit__(self, *error: object) -> None:
        self.session.close()
        self.server.stop()

    def ask(self, rng: random.Random) -> Row:
        """Send one damaged request; what it was and how it ended."""
        endpoint, body, what = self._request(rng)
        began = time.perf_counter()
        try:
            end = self._send(endpoint, body)
        except httpx.HTTPError as error:
            end = f"wrong: {type(error).__name__}"
        row: Row = {"what": what, "end": end, "seconds": round(time.perf_counter() - began, 2)}
        row["megabytes"] = psutil.Process(self.server.process.pid).memory_info().rss >> 20
        self.sent += 1
        if self.server.process.poll() is not None:
            raise SystemExit(f"The server ended at {what}.")
        if self.sent % GOOD_EVERY == 0 and self._good() != self.first:
            row["end"] = "wrong: a good request has another answer"
        if row["end"].startswith("wrong: "):
            row |= {"end": "wrong", "why": row["end"].removeprefix("wrong: ")}
        return row

    def _good(self) -> str:
        data = [{"path": self.files["image"], "meta": {"_type": "gradio.FileData"}}, 1, 0, None]
        _, events = self._events("caption_image", json.dumps({"data": data}).encode())
        return str(json.loads(events.strip().rpartition("data: ")[2])[0])

    def _request(self, rng: random.Random) -> tuple[str, bytes, str]:
        """An endpoint, the body of a request, and what is wrong with it."""
        modality = rng.choice(sorted(self.files))
        task = rng.choice(("caption", "ask", "explain", "perceived"))
        file: Any = {"path": self.files[modality], "meta": {"_type": "gradio.FileData"}}
        tail = [rng.choice((1, 2)), rng.choice((0, 3)), None]
        endpoint = f"{task}_{modality}" if task in ("caption", "ask") else "explain"
        data: list[Any] = [file, *tail] if task == "caption" else [file, rng.choice(QUESTIONS), *tail]
        if task == "perceived":
            modality = rng.choice(("video", "audio"))
            file["path"] = self.files[modality]
            endpoint = "frames" if modality == "video" else "spectrogram"
            data = [file, "Caption", None]
        wrong = []
        for _ in range(rng.randint(1, 2)):
            kind = rng.choice(("value", "value", "path", "lost", "more", "name", "json"))
            place = rng.randrange(len(data)) if data else 0
            if kind == "value" and data:
                data[place] = rng.choice(ODD)
            elif kind == "path":
                file["path"] = rng.choice(PATHS)
                file |= rng.choice(
                    ({}, {"url": "http://127.0.0.1:9/"}, {"meta": None}, {"size": -1}, {"orig_name": "/x"})
                )
            elif kind == "lost" and data:
                del data[place:]
            elif kind == "more":
                data += [rng.choice(ODD) for _ in range(rng.choice((1, 3, 50)))]
            elif kind == "name":
                endpoint = rng.choice(
                    ("caption", "ask", "nothing", "0", "..", "run", "caption_image%00", "é" * 300)
                )
            wrong.append(kind)
        body = json.dumps({"data": data}).encode()
        if "json" in wrong:
            cut = rng.randrange(len(body))
            body = rng.choice(
                (body[:cut], body[:cut] + bytes([rng.randrange(256)]) + body[cut + 1 :], b"[" * 5000, b"")
            )
        return endpoint, body, f"{endpoint[:40]}: {', '.join(wrong)}"

    def _send(self, endpoint: str, body: bytes) -> str:
        status, text = self._events(endpoint, body)
        if status >= 500:
            return f"wrong: {status} {text[:200]}"
        if status != 200:
            return f"refused, {status}"
        name, _, data = text.strip().rpartition("\n")
        if name.endswith("event: complete"):
            return "answered"
        code = re.search(r"\[([a-z-]+)\]", data)
        if code and code[1] in TITLES:
            return f"wrong: {data[:200]}" if code[1] == "internal" else f"refused, {code[1]}"
        return (
            "refused without a sentence" if "null" in data or "error" in data else f"wrong: {text[-200:]!r}"
        )

    def _events(self, endpoint: str, body: bytes) -> tuple[int, str]:
        """(status, text) of a call, or of the events of its answer."""
        headers = {"Content-Type": "application/json"}
        address = f"{self.server.url}/gradio_api/call/{endpoint}"
        joined = self.session.post(address, content=body, headers=headers)
        if joined.status_code != 200:
            return joined.status_code, joined.text
        events = self.session.get(f"{address}/{joined.json()['event_id']}")
        return events.status_code, events.text
