"""A crowd in front of one model: `python -m benchmarks.serving`.

Clients of all tabs send pictures, videos and sounds, captions and questions, each the next one when the last
is answered. *one at a time* answers them without the scheduler, as they come.
"""

from __future__ import annotations

import itertools
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.timing import Row, Table
from epalm import EPALM, EPALMError, Request
from epalm.serving import Scheduler

EXAMPLES = Path(__file__).parent.parent / "assets" / "examples"
SECONDS = 8.0
CROWDS = (1, 4, 16, 64)


def mixed() -> list[Request]:
    """Requests of all tabs: four pictures for two videos and two sounds, half of them questions."""
    pictures, videos, sounds = (sorted(EXAMPLES.glob(kind)) for kind in ("*.jpg", "*.mp4", "*.flac"))
    files = [pictures[0], videos[0], pictures[1], sounds[0], pictures[2], videos[1], pictures[3], sounds[1]]
    return [Request(file, "what is this?" if i % 2 else None) for i, file in enumerate(files)]


def crowd(answer: Callable[[Request], str], clients: int, seconds: float) -> tuple[float, list[float], int]:
    """Answers per second, seconds of each, and how many were refused."""
    requests = mixed()
    waits: list[float] = []
    refused = itertools.count()
    end = time.perf_counter() + seconds

    def client(number: int) -> None:
        for request in itertools.islice(itertools.cycle(requests), number, None):
            begin = time.perf_counter()
            if begin > end:
                return
            try:
                answer(request)
                waits.append(time.perf_counter() - begin)
            except EPALMError:
                next(refused)

    threads = [threading.Thread(target=client, args=(i,)) for i in range(clients)]
    begin = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(waits) / (time.perf_counter() - begin), waits, next(refused)


def rows(
    table: Table, case: str, variant: str, found: tuple[float, list[float], int], alone: float | None
) -> float:
    """Throughput and waits of one crowd."""
    rate, waits, refused = found
    waits = sorted(waits)
    p95 = waits[min(int(0.95 * len(waits)), len(waits) - 1)]
    note = f"{rate / alone:.2f} x one client, " if alone else ""
    table.add(Row(case, f"{variant}: throughput", [rate], "answers/s", note=f"{note}{refused} refused"))
    table.add(
        Row(case, f"{variant}: wait", waits, "s", note=f"p50 {statistics.median(waits):.2f}, p95 {p95:.2f}")
    )
    return rate


def main() -> None:
    table = Table("serving", "Serving the starter, all tabs mixed")
    model = EPALM.from_pretrained("starter", device="cpu")
    one = threading.Lock()

    def directly(request: Request) -> str:
        with one:
            return model.generate([request])[0]

    for request in mixed():
        directly(request)
    alone = rows(table, "1 client", "one at a time", crowd(directly, 1, SECONDS), None)
    with Scheduler(model) as scheduler:
        for clients in CROWDS:
            found = crowd(lambda request: scheduler.submit(request).result(), clients, SECONDS)
            case = f"{clients} client{'s' * (clients > 1)}"
            rows(table, case, "scheduler", found, alone)
    table.save()


if __name__ == "__main__":
    main()
