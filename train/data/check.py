"""Find damaged files of a data set by opening each one, in worker processes that may crash.

OUT/checked.jsonl   which files were opened, so that a rerun continues from there
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from epalm.errors import EPALMError
from epalm.results import Results
from train.progress import bar

# Formats (FFmpeg's names) whose header states the duration; for others FFmpeg guesses it from the size.
TIMED = {"mov", "matroska", "avi", "wav", "w64", "flac", "aiff", "flv", "asf"}
SECONDS = 300  # time limit per file
WHOLE, SLACK = 0.9, 0.5  # a file is complete with this share of its length, or if fewer seconds are missing

Check = Callable[[str], str | None]  # path -> None, or a sentence saying what is wrong


def check_media(paths: Sequence[str], modality: str, out: Path, workers: int) -> dict[str, str]:
    """Open every file that no earlier run found intact; returns damaged files, each with a sentence.

    Outcomes are written to OUT/checked.jsonl immediately. Files that changed since then are opened again.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EPALMError(
            f"{out} cannot be created ({error.strerror}); choose another folder with --out."
        ) from error
    damaged: dict[str, str] = {}
    with Results(out / "checked.jsonl", {"opened_as": modality, "compared": "length"}) as results:
        todo = [path for path in paths if not results.has(path)]
        if len(todo) < len(paths):
            print(f"{len(paths) - len(todo):,} files were already checked.", file=sys.stderr)
        with bar("opening files", len(todo), " files") as shown:
            for path, problem in check_files(todo, CHECKS[modality], workers):
                if problem is None:
                    results.add(path, text="opens")
                else:
                    results.add(path, error=problem)
                    damaged[path] = problem
                shown.update()
    return damaged


def check_files(
    paths: Sequence[str], check: Check, workers: int, seconds: int = SECONDS
) -> Iterator[tuple[str, str | None]]:
    """Call `check` (a module-level function) on each path in worker processes; yields results in any order.

    A file on which a worker crashes or takes longer than `seconds` is reported as damaged.
    """
    todo = deque(paths)
    while todo:
        running: dict[Future[str | None], str] = {}
        try:
            with pool(min(workers, len(todo))) as executor:
                while todo or running:
                    while todo and len(running) < 4 * workers:
                        future = executor.submit(limited, check, todo[0], seconds)
                        running[future] = todo.popleft()
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        problem = future.result()
                        yield running.pop(future), problem
        except BrokenProcessPool:  # does not say which file caused it
            for path in running.values():
                yield path, check_alone(path, check, seconds)


def limited(check: Check, path: str, seconds: int) -> str | None:
    """In a worker: call `check`; the worker dies if it takes too long.

    The alarm has no handler, so the system ends even a decoder that never returns to Python.
    """
    alarms = hasattr(signal, "alarm")  # not on Windows
    if alarms:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(seconds)
    try:
        return check(path)
    finally:
        if alarms:
            signal.alarm(0)


def check_alone(path: str, check: Check, seconds: int) -> str | None:
    """Call `check` in a separate process; if that dies, this file is to blame."""
    try:
        with pool(1) as executor:
            return executor.submit(limited, check, path, seconds).result()
    except BrokenProcessPool:
        return (
            f"{path} crashes the program that opens it, or takes more than {seconds} seconds: it is damaged "
            "or too large for the memory."
        )


@contextmanager
def pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Worker processes; on exit, work that has not started is dropped."""
    # With a fork server the libraries are imported once, and workers are copies of it.
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    context.set_forkserver_preload(["epalm.media.image", "epalm.media.video", "epalm.media.audio"])
    executor = ProcessPoolExecutor(workers, context, initializer=begin_work)
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)


def begin_work() -> None:
    """In a worker: leave Ctrl-C to the parent, and exit when the parent is gone, even if it was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, daemon=True).start()


def end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def check_image(path: str) -> str | None:
    from epalm.media.image import open_image

    return problem_of(lambda: open_image(path))


def check_video(path: str) -> str | None:
    from epalm.media.video import open_video

    return problem_of(lambda: open_video(path, frames=1)) or cut_short(path)


def check_audio(path: str) -> str | None:
    from epalm.media.audio import open_audio

    return problem_of(lambda: open_audio(path, seconds=0.5)) or cut_short(path)


CHECKS: dict[str, Check] = {"image": check_image, "video": check_video, "audio": check_audio}


def problem_of(opening: Callable[[], object]) -> str | None:
    """The error message of a file that cannot be opened; None if it opens."""
    try:
        opening()
    except EPALMError as error:
        return str(error)
    return None


def cut_short(path: str) -> str | None:
    """One sentence if a video or sound is much shorter than its header says.

    The file is read to its end without decoding. Formats without a duration in their header are not judged.
    """
    import av

    if problem := short_riff(path):
        return problem
    try:
        with av.open(path) as container:
            if container.duration is None or not TIMED & set(container.format.name.split(",")):
                return None
            promised = container.duration / av.time_base
            there = last_time(container)
    except (
        av.error.FFmpegError,
        OSError,
        ValueError,
    ):  # the file opened before, so this is not about its length
        return None
    if there >= promised * WHOLE or promised - there < SLACK:
        return None
    return (
        f"{path} is cut short: its header says {promised:.1f} s, but the file has only {there:.1f} s; "
        "download it again."
    )


def short_riff(path: str) -> str | None:
    """The same for the size in a WAV or AVI header, which readers ignore."""
    try:
        with open(path, "rb") as file:
            head = file.read(8)
        size = os.path.getsize(path)
    except OSError:
        return None
    promised = int.from_bytes(head[4:8], "little") + 8
    unknown = promised <= 8 or promised > 0xFFFFFF00  # recorders and pipes leave it unset
    if head[:4] != b"RIFF" or unknown or size >= promised * WHOLE:
        return None
    return (
        f"{path} is cut short: its header says {promised / 1e6:.2f} MB, but it has only {size / 1e6:.2f} MB; "
        "download it again."
    )


def last_time(container: Any) -> float:
    """Seconds from the start of the first to the end of the last packet of any stream."""
    first, last = float("inf"), 0.0
    for packet in container.demux():
        if packet.pts is not None and packet.time_base is not None:
            begin = float(packet.pts * packet.time_base)
            first = min(first, begin)
            last = max(last, begin + float((packet.duration or 0) * packet.time_base))
    return max(last - first, 0.0)
