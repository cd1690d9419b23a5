"""A crowd at the demo: many clients, all endpoints, some bad files; is every answer right, and memory flat?

    python -m benchmarks.load                               # 64 clients for five minutes
    python -m benchmarks.load --clients 16 --seconds 60 --model my-adapter

Starts its own server on this machine, asks each request once alone, then lets the clients loose. Ends with 1
if a client got another answer than the single request, a good request was refused, memory grew by more than
five percent after the first minute, or the purge left a file.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

ROOT = Path(__file__).parents[1]
BAD = 0.1  # share of requests with a bad file
GROWTH = 1.05  # of memory after the first minute
MODALITIES = {"image": "*.jpg", "video": "*.mp4", "audio": "*.flac"}


@dataclass(frozen=True)
class Call:
    """One request: an endpoint, a file, and a question where the endpoint takes one."""

    endpoint: str
    file: Path
    question: str | None = None

    @property
    def key(self) -> str:
        return f"{self.endpoint} {self.file.name}"


@dataclass
class Tally:
    """What the clients met."""

    seconds: list[float] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


def ask(client: httpx.Client, url: str, call: Call) -> tuple[bool, str]:
    """Upload, ask, and read the events: (whether it was answered, the text or the error)."""
    with open(call.file, "rb") as file:
        uploaded = client.post(f"{url}/gradio_api/upload", files={"files": (call.file.name, file)})
    if uploaded.status_code != 200:
        return False, f"upload: {uploaded.status_code}"
    upload = {"path": uploaded.json()[0], "meta": {"_type": "gradio.FileData"}}
    data: list[Any] = [upload] if call.question is None else [upload, call.question]
    joined = client.post(f"{url}/gradio_api/call/{call.endpoint}", json={"data": [*data, 1, 0, None]})
    if joined.status_code != 200:
        return False, f"call: {joined.status_code}"
    events = client.get(f"{url}/gradio_api/call/{call.endpoint}/{joined.json()['event_id']}").text
    name, data_line = events.strip().split("\n")[-2:]
    value = json.loads(data_line.removeprefix("data: "))
    if name == "event: complete":
        return True, value["text"] if isinstance(value, dict) else value[0]
    return False, json.dumps(value)


def calls(folder: Path) -> tuple[list[Call], list[Call]]:
    """Good requests about the example files, and bad ones about files that are none."""
    good = []
    for modality, pattern in MODALITIES.items():
        for path in sorted((ROOT / "assets" / "examples").glob(pattern)):
            good.append(Call(f"caption_{modality}", path))
            good.append(Call(f"ask_{modality}", path, "what is this?"))
    bad = []
    for modality in MODALITIES:
        for name, content in (("text", b"no media <b>at all</b>"), ("cut", good[0].file.read_bytes()[:900])):
            path = folder / f"{name}-{modality}.bin"
            path.write_bytes(content)
            bad.append(Call(f"caption_{modality}", path))
    return good, bad


def client(
    url: str, seed: int, until: float, good: list[Call], bad: list[Call], alone: dict, tally: Tally
) -> None:
    """One client: request after request."""
    rng = random.Random(seed)
    with httpx.Client(timeout=600) as session:
        while time.monotonic() < until:
            call = rng.choice(bad if rng.random() < BAD else good)
            started = time.perf_counter()
            try:
                answered, text = ask(session, url, call)
            except httpx.HTTPError as error:
                answered, text = False, type(error).__name__
            took = time.perf_counter() - started
            code = re.search(r"\[([a-z-]+)\]", text)
            outcome = "ok" if answered else code[1] if code else text[:40]
            with tally.lock:
                tally.outcomes[outcome] += 1
                if call in good:
                    tally.seconds.append(took)
                    if not answered or text != alone[call]:
                        tally.wrong.append(f"{call.key}: {text!r} instead of {alone[call]!r}")
                elif answered or outcome != "bad-file":
                    tally.wrong.append(f"{call.key}: {text!r} instead of a refusal")


def start(args: argparse.Namespace, uploads: Path, port: int) -> subprocess.Popen:
    """The server, ready: its model is loaded."""
    command = [sys.executable, "app.py", "--port", str(port), "--uploads", str(uploads), "--logs", "json"]
    environ = os.environ | {"EPALM_KEEP_MINUTES": "1", "EPALM_MODEL": args.model}
    server = subprocess.Popen(command, cwd=ROOT, env=environ, stderr=subprocess.DEVNULL)
    for _ in range(600):
        try:
            if httpx.get(f"http://127.0.0.1:{port}/health").json()["status"] == "ok":
                return server
        except httpx.HTTPError:
            if server.poll() is not None:
                break
        time.sleep(0.5)
    server.kill()
    raise SystemExit("The server did not start.")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--model", default="starter")
    parser.add_argument("--port", type=int, default=7870)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        uploads = Path(folder) / "uploads"
        server = start(args, uploads, args.port)
        try:
            return measure(args, f"http://127.0.0.1:{args.port}", server, uploads, Path(folder))
        finally:
            server.terminate()
            server.wait(60)


def measure(args: argparse.Namespace, url: str, server: subprocess.Popen, uploads: Path, folder: Path) -> int:
    good, bad = calls(folder)
    with httpx.Client(timeout=600) as session:
        alone = {call: ask(session, url, call)[1] for call in good}
    tally, process = Tally(), psutil.Process(server.pid)
    until = time.monotonic() + args.seconds
    threads = [
        threading.Thread(target=client, args=(url, seed, until, good, bad, alone, tally))
        for seed in range(args.clients)
    ]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    memory: list[tuple[float, int]] = []
    while any(thread.is_alive() for thread in threads):
        memory.append((time.monotonic() - began, process.memory_info().rss))
        time.sleep(1)
    took = time.monotonic() - began
    settled = [size for at, size in memory if at >= min(60, args.seconds / 4)]
    early, late = statistics.mean(settled[:10]), statistics.mean(settled[-10:])
    time.sleep(100)  # uploads are kept for a minute here, and looked at every quarter of one
    left = [path for path in uploads.rglob("*") if path.is_file() and path.suffix != ".lock"]
    cuts = statistics.quantiles(tally.seconds, n=20)
    report = {
        "clients": args.clients,
        "answers": len(tally.seconds),
        "per second": round(len(tally.seconds) / took, 2),
        "p50 s": round(statistics.median(tally.seconds), 2),
        "p95 s": round(cuts[-1], 2),
        "outcomes": dict(tally.outcomes),
        "wrong answers": len(tally.wrong),
        "memory MB after a minute": round(early / 1e6),
        "memory MB at the end": round(late / 1e6),
        "files left": len(left),
    }
    print(json.dumps(report, indent=2))
    for line in tally.wrong[:10]:
        print(line, file=sys.stderr)
    return int(bool(tally.wrong or left) or late > GROWTH * early or server.poll() is not None)


if __name__ == "__main__":
    sys.exit(main())
