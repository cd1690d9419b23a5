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

from benchmarks.server import ROOT, Server, upload
from benchmarks.timing import Row, Table

BAD = 0.1  # share of requests with a bad file
GROWTH = 1.05  # of memory after the first minute
PURGE = 120.0  # seconds until no file may be left: they are kept for a minute, and looked at four times in it
MODALITIES = {"image": "*.jpg", "video": "*.mp4", "audio": "*.flac"}


@dataclass(frozen=True)
class Call:
    """One request: an endpoint, a file, a question where the endpoint takes one, and the other values."""

    endpoint: str
    file: Path
    question: str | None = None
    rest: tuple[Any, ...] = (1, 0, None)

    @property
    def key(self) -> str:
        return f"{self.endpoint} {self.file.name}"


@dataclass
class Tally:
    """What the clients met."""

    seconds: dict[str, list[float]] = field(default_factory=dict)  # of good requests, by endpoint
    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


def ask(client: httpx.Client, url: str, call: Call) -> tuple[bool, str]:
    """Upload, ask, and read the events: (whether it was answered, the text or the error)."""
    file = {"path": upload(client, url, call.file), "meta": {"_type": "gradio.FileData"}}
    data = [file, *([] if call.question is None else [call.question]), *call.rest]
    joined = client.post(f"{url}/gradio_api/call/{call.endpoint}", json={"data": data})
    if joined.status_code != 200:
        return False, f"call: {joined.status_code}"
    events = client.get(f"{url}/gradio_api/call/{call.endpoint}/{joined.json()['event_id']}").text
    name, data_line = events.strip().split("\n")[-2:]
    value = json.loads(data_line.removeprefix("data: "))
    if name != "event: complete":
        return False, json.dumps(value)
    return True, said(call.endpoint, value)


def said(endpoint: str, value: list[Any]) -> str:
    """What must be the same each time: the text; of explanations all numbers, of previews the sentence."""
    if endpoint == "explain":
        numbers = json.dumps(value[1], sort_keys=True)
        return re.sub(r"-?\d+\.\d+(e-?\d+)?", lambda number: f"{float(number[0]):.3f}", numbers)
    return value[1] if endpoint in ("frames", "spectrogram") else value[0]


def calls(folder: Path) -> tuple[list[Call], list[Call]]:
    """Good requests about the example files, of all endpoints, and bad ones about files that are none."""
    good = []
    for modality, pattern in MODALITIES.items():
        paths = sorted((ROOT / "assets" / "examples").glob(pattern))
        for path in paths:
            good.append(Call(f"caption_{modality}", path))
            good.append(Call(f"ask_{modality}", path, "what is this?"))
        if modality == "image":
            good += [Call("caption", paths[0]), Call("ask", paths[0], "is this a cat?")]
        else:
            preview = "frames" if modality == "video" else "spectrogram"
            good.append(Call(preview, paths[0], rest=("Caption", None)))
        good.append(Call("explain", paths[0], ""))
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
                    tally.seconds.setdefault(call.endpoint, []).append(took)
                    if not answered or text != alone[call]:
                        tally.wrong.append(f"{call.key}: {text!r} instead of {alone[call]!r}")
                elif answered or outcome != "bad-file":
                    tally.wrong.append(f"{call.key}: {text!r} instead of a refusal")


def memory_of(server: psutil.Process) -> int:
    """Bytes that the server and its reading processes have in memory."""
    total = 0
    for process in (server, *server.children(recursive=True)):
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--model", default="starter")
    parser.add_argument("--port", type=int, default=7870)
    parser.add_argument("--save", action="store_true", help="write results/load.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder) / "uploads", args.port, args.model, minutes=1)
        server.start()
        try:
            return measure(args, server, Path(folder))
        finally:
            server.stop()


def measure(args: argparse.Namespace, server: Server, folder: Path) -> int:
    good, bad = calls(folder)
    with httpx.Client(timeout=600) as session:
        alone = {call: ask(session, server.url, call)[1] for call in good}
    tally, process = Tally(), psutil.Process(server.process.pid)
    until = time.monotonic() + args.seconds
    threads = [
        threading.Thread(target=client, args=(server.url, seed, until, good, bad, alone, tally))
        for seed in range(args.clients)
    ]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    memory: list[tuple[float, int]] = []
    while any(thread.is_alive() for thread in threads):
        if server.process.poll() is not None:
            print("The server ended.", file=sys.stderr)
            return 1
        memory.append((time.monotonic() - began, memory_of(process)))
        time.sleep(1)
    took = time.monotonic() - began
    settled = [size / 1e6 for at, size in memory if at >= min(60, args.seconds / 4)]
    left = left_after_purge(server.uploads)
    table = tabulated(args, tally, took, settled, left)
    if args.save:
        table.save()
    for line in tally.wrong[:10]:
        print(line, file=sys.stderr)
    early, late = statistics.mean(settled[:10]), statistics.mean(settled[-10:])
    return int(bool(tally.wrong or left) or late > GROWTH * early or server.process.poll() is not None)


def left_after_purge(uploads: Path) -> int:
    """Wait until all uploads are deleted, for as long as that may take; the number that is left."""
    end = time.monotonic() + PURGE
    while True:
        left = sum(not name.endswith(".lock") for _, _, names in os.walk(uploads) for name in names)
        if not left or time.monotonic() > end:
            return left
        time.sleep(1)


def tabulated(
    args: argparse.Namespace, tally: Tally, took: float, megabytes: list[float], left: int
) -> Table:
    """Seconds of each endpoint, memory, and what became of the requests."""
    table = Table("load", f"{args.clients} clients at the demo for {args.seconds:.0f} seconds")
    everything = [seconds for each in tally.seconds.values() for seconds in each]
    for name, seconds in {"all endpoints": everything, **dict(sorted(tally.seconds.items()))}.items():
        cuts = statistics.quantiles(seconds, n=20) if len(seconds) > 1 else seconds
        rounded = [round(value, 2) for value in seconds]
        note = f"95 % within {cuts[-1]:.1f} s, {len(seconds)} answers"
        table.add(Row("seconds to the final answer", name, rounded, note=note))
    table.add(Row("throughput", "all endpoints", [round(len(everything) / took, 2)], unit="per s"))
    early, late = (round(statistics.mean(part)) for part in (megabytes[:10], megabytes[-10:]))
    table.add(Row("memory of the server and its readers", "after the first minute", [early], unit="MB"))
    table.add(Row("memory of the server and its readers", "at the end", [late], unit="MB"))
    told = ", ".join(f"{count} {outcome}" for outcome, count in tally.outcomes.most_common())
    table.notes = [
        f"Requests by outcome: {told}; one in ten had a bad file.",
        f"Answers other than those of single requests: {len(tally.wrong)}.",
        f"Uploads left after the purge: {left}.",
    ]
    print("\n".join(table.notes))
    return table


if __name__ == "__main__":
    sys.exit(main())
