"""Opening every medium once, in processes that may die on it: what of a data set is damaged.

OUT/checked.jsonl   which media were opened, so that a rerun goes on from there
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

from epalm.cli.results import Results
from epalm.errors import EPALMError

# Formats (in FFmpeg's words) whose header says how long the file is; for others it is guessed from its size.
TIMED = {"mov", "matroska", "avi", "wav", "w64", "flac", "aiff", "flv", "asf"}
SECONDS = 300  # that one file may take
WHOLE, SLACK = 0.9, 0.5  # a file is whole with this part of its length, or if less than these seconds lack

Check = Callable[[str], str | None]  # path -> None, or a sentence on what is wrong with the file


def check_media(paths: Sequence[str], modality: str, out: Path, workers: int) -> dict[str, str]:
    """Open each medium that an earlier run has not found good; those that do not open, each with a sentence.

    Every outcome is at once in OUT/checked.jsonl. Files that changed since are opened again.
    """
    from epalm.cli.batch import Progress  # brings PyTorch

    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EPALMError(f"{out} cannot be made ({error.strerror}); give --out another folder.") from error
    damaged: dict[str, str] = {}
    with Results(out / "checked.jsonl", {"opened_as": modality, "compared": "length"}) as results:
        todo = [path for path in paths if not results.has(path)]
        if len(todo) < len(paths):
            print(f"{len(paths) - len(todo):,} files were opened before.", file=sys.stderr)
        with Progress(len(todo)) as progress:
            for path, problem in check_files(todo, CHECKS[modality], workers):
                if problem is None:
                    results.add(path, text="opens")
                else:
                    results.add(path, error=problem)
                    damaged[path] = problem
                progress.advance()
    return damaged


def check_files(
    paths: Sequence[str], check: Check, workers: int, seconds: int = SECONDS
) -> Iterator[tuple[str, str | None]]:
    """Call `check`, a function at the top of a module, on each path in worker processes; in any order.

    A file on which a worker dies or works for longer than `seconds`, as decoders do on some damage, is
    reported as damaged.
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
        except BrokenProcessPool:  # it does not say whose fault it was
            for path in running.values():
                yield path, check_alone(path, check, seconds)


def limited(check: Check, path: str, seconds: int) -> str | None:
    """In a worker: `check`, with the worker's death as the end of what takes too long.

    The alarm has no handler, so that the system itself ends a decoder that never comes back to Python.
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
    """`check` in a process of its own, whose death is the file's fault."""
    try:
        with pool(1) as executor:
            return executor.submit(limited, check, path, seconds).result()
    except BrokenProcessPool:
        return (
            f"{path} makes the program that opens it crash, or work for more than {seconds} seconds: it is "
            "damaged, or does not fit into the memory."
        )


@contextmanager
def pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Worker processes; work that was not begun is dropped at the end."""
    # The libraries are imported once, by the process that workers are copies of, where there is such a way.
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    context.set_forkserver_preload(["epalm.media.image", "epalm.media.video", "epalm.media.audio"])
    executor = ProcessPoolExecutor(workers, context, initializer=begin_work)
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)


def begin_work() -> None:
    """In a worker: leave Ctrl-C to the parent, and end with it even if it is killed."""
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
    """The sentence with which a file is refused; None if it opens."""
    try:
        opening()
    except EPALMError as error:
        return str(error)
    return None


def cut_short(path: str) -> str | None:
    """One sentence if a video or sound ends long before the time that its header says.

    The file is read to its end, without decoding it. Formats whose header has no length are not judged.
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
    ):  # it opened before: what is wrong here is not the length
        return None
    if there >= promised * WHOLE or promised - there < SLACK:
        return None
    return (
        f"{path} is cut short: its header says {promised:.1f} s, but only {there:.1f} s are in the file; "
        "download it again."
    )


def short_riff(path: str) -> str | None:
    """The same by the size in the header of a WAV or AVI file, whose readers overlook it."""
    try:
        with open(path, "rb") as file:
            head = file.read(8)
        size = os.path.getsize(path)
    except OSError:
        return None
    promised = int.from_bytes(head[4:8], "little") + 8
    unknown = promised <= 8 or promised > 0xFFFFFF00  # as recorders and pipes leave it
    if head[:4] != b"RIFF" or unknown or size >= promised * WHOLE:
        return None
    return (
        f"{path} is cut short: its header says {promised / 1e6:.2f} MB, but it has only {size / 1e6:.2f} MB; "
        "download it again."
    )


def last_time(container: Any) -> float:
    """Seconds from the first to the end of the last packet of any stream."""
    first, last = float("inf"), 0.0
    for packet in container.demux():
        if packet.pts is not None and packet.time_base is not None:
            begin = float(packet.pts * packet.time_base)
            first = min(first, begin)
            last = max(last, begin + float((packet.duration or 0) * packet.time_base))
    return max(last - first, 0.0)
