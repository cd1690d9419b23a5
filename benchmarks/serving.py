"""A crowd in front of one model: `python -m benchmarks.serving`.

Clients of all tabs send pictures, videos and sounds, captions and questions, each the next one when the last
is answered. *one at a time* answers them without the scheduler, as they come. What counts is what is answered
while all of them are busy, after the first wave. Processor seconds per answer say what a crowd can gain at
most: each processor has one of them per second.
"""

from __future__ import annotations

import itertools
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.timing import Row, Table
from epalm import EPALM, EPALMError, Request
from epalm.decoding import with_overrides
from epalm.serving import Scheduler

EXAMPLES = Path(__file__).parent.parent / "assets" / "examples"
SECONDS = 16.0
FIRST_WAVE = 0.4  # of the seconds, in which all begin together
CROWDS = (1, 4, 16, 64)


def mixed() -> list[Request]:
    """Requests of all tabs: four pictures for two videos and two sounds, half of them questions."""
    pictures, videos, sounds = (sorted(EXAMPLES.glob(kind)) for kind in ("*.jpg", "*.mp4", "*.flac"))
    files = [pictures[0], videos[0], pictures[1], sounds[0], pictures[2], videos[1], pictures[3], sounds[1]]
    return [Request(file, "what is this?" if i % 2 else None) for i, file in enumerate(files)]


@dataclass(frozen=True)
class Crowd:
    """What became of a crowd's requests.

    Fields:
        rate: answers per second, after the first wave.
        waits: seconds of each.
        cost: processor seconds per answer, after the first wave.
    """

    rate: float
    waits: list[float]
    refused: int
    cost: float


def crowd(answer: Callable[[Request], str], clients: int, seconds: float) -> Crowd:
    """Let so many clients ask for so many seconds."""
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
    for thread in threads:
        thread.start()
    time.sleep(FIRST_WAVE * seconds)
    before, answered, used = time.perf_counter(), len(waits), time.process_time()
    time.sleep(end - time.perf_counter())
    took, answered, used = time.perf_counter() - before, len(waits) - answered, time.process_time() - used
    for thread in threads:
        thread.join()
    return Crowd(answered / took, waits, next(refused), used / max(1, answered))


def rows(table: Table, case: str, variant: str, found: Crowd, alone: float | None) -> float:
    """Throughput and waits of one crowd."""
    rate, waits = found.rate, sorted(found.waits)
    p95 = waits[min(int(0.95 * len(waits)), len(waits) - 1)]
    note = f"{rate / alone:.2f} x one client, " if alone else ""
    note += f"{found.refused} refused, {found.cost:.2f} processor seconds each"
    table.add(Row(case, f"{variant}: throughput", [rate], "answers/s", note=note))
    table.add(
        Row(case, f"{variant}: wait", waits, "s", note=f"p50 {statistics.median(waits):.2f}, p95 {p95:.2f}")
    )
    return rate


def stages(table: Table, model: EPALM) -> None:
    """Where the time of a lone request goes, in the mean of those of all tabs."""
    names = ("reading and preprocessing", "encoder", "first token", "all further tokens")
    samples: list[list[float]] = [[] for _ in names]
    for _ in range(3):
        seconds = [0.0] * len(names)
        for request in mixed():
            times = [time.perf_counter()]
            name, ids, media = model._prepare(request)
            times.append(time.perf_counter())
            features, adapted = model.features(name, media[None]), model.adapted[name]
            times.append(time.perf_counter())
            short = with_overrides(adapted.adapter.config.generation, 1, 1)
            adapted.generate(features, [ids], short)
            times.append(time.perf_counter())
            adapted.generate(features, [ids])
            times.append(time.perf_counter())
            each = [after - before for before, after in itertools.pairwise(times)]
            each[3] -= each[2]  # the first token is among them
            seconds = [total + one for total, one in zip(seconds, each, strict=True)]
        for kept, total in zip(samples, seconds, strict=True):
            kept.append(total / len(mixed()))
    for part, values in zip(names, samples, strict=True):
        table.add(Row("1 client, by stage", part, values))


def main() -> None:
    table = Table("serving", "Serving the starter, all tabs mixed")
    model = EPALM.from_pretrained("starter", device="cpu")
    one = threading.Lock()

    def directly(request: Request) -> str:
        with one:
            return model.generate([request])[0]

    for request in mixed():
        directly(request)
    stages(table, model)
    alone = rows(table, "1 client", "one at a time", crowd(directly, 1, SECONDS), None)
    with Scheduler(model) as scheduler:
        for clients in CROWDS:
            found = crowd(lambda request: scheduler.submit(request).result(), clients, SECONDS)
            case = f"{clients} client{'s' * (clients > 1)}"
            rows(table, case, "scheduler", found, alone)
    table.save()


if __name__ == "__main__":
    main()
