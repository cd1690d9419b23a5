"""Read files in this process, or in a separate one that may crash.

The libraries that decode files are native code. A damaged or hostile file can make them crash, run forever or
fill the memory, and a server must survive that. So it reads files in a separate process, which is restarted
when it is lost:

with ReadingProcess() as reader:
    clip = recipe.open("clip.mp4", reader)

Results come back as plain numbers, never as a pickle. The reading process does not import PyTorch.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol, Self

import numpy as np
from PIL import Image

from epalm.errors import EPALMError
from epalm.media.container import MediaSource, Modality, Source, modality_of, name_of, whole
from epalm.media.serving import Buffer, receive, send, unpacked
from epalm.media.sizes import Size, size_of

log = logging.getLogger(__name__)


SECONDS = 60.0  # time limit for reading one file
MEGABYTES = 3072  # memory limit for reading one file
PATIENCE = 60.0  # seconds to wait for a reading process to start on a busy machine

BOOT = "import sys; sys.path.insert(0, sys.argv[1]); from epalm.media.serving import serve; serve()"


@dataclass(frozen=True)
class Reading:
    """What to read from a file: its modality, and the arguments of the function that opens it."""

    modality: Modality
    options: dict[str, Any] = field(default_factory=dict)


class Reader(Protocol):
    """Reads files; all methods raise EPALMError if the file cannot be read."""

    def modality_of(self, source: Source) -> Modality:
        """The kind of a file, by its content."""
        ...

    def read(self, source: Source, reading: Reading) -> Any:
        """A PIL image, a Clip or a Sound."""
        ...

    def size_of(self, source: MediaSource, modality: Modality) -> Size:
        """The file's size according to its header; 0 if unreadable, which `read` then reports."""
        ...


class ThisProcess:
    """Reads in the calling process."""

    def modality_of(self, source: Source) -> Modality:
        return modality_of(source)

    def read(self, source: Source, reading: Reading) -> Any:
        from epalm.media.audio import open_audio
        from epalm.media.image import open_image
        from epalm.media.video import open_video

        if reading.modality == "image":
            return open_image(source)
        if isinstance(source, Image.Image | np.ndarray):
            raise EPALMError(f"A picture in memory is not {article(reading.modality)}: pass a file.")
        return (open_video if reading.modality == "video" else open_audio)(source, **reading.options)

    def size_of(self, source: MediaSource, modality: Modality) -> Size:
        return size_of(source, modality)


HERE = ThisProcess()


def article(modality: Modality) -> str:
    return {"image": "a picture", "video": "a video", "audio": "a sound"}[modality]


# ---------------------------------------------------------------- the process that asks


class ReadingProcess:
    """Reads in other processes, up to `workers` files at once. Thread-safe.

    Args:
        seconds: time limit per file.
        megabytes: memory limit per file; enforced on Linux only.
        workers: number of processes. Each is started when it is first needed and restarted when it is lost.
    """

    def __init__(self, seconds: float = SECONDS, megabytes: int = MEGABYTES, workers: int = 1) -> None:
        self.seconds, self.megabytes = seconds, megabytes
        self._idle: queue.LifoQueue[Worker | None] = queue.LifoQueue()
        for _ in range(workers):
            self._idle.put(None)
        self._closed = False
        self._workers = workers

    def start(self) -> Self:
        """Start one process now, so that the first file does not wait for it."""
        worker = self._idle.get()
        try:
            worker = worker or self._new()
        finally:
            self._idle.put(worker)
        return self

    def modality_of(self, source: Source) -> Modality:
        if isinstance(source, Image.Image | np.ndarray):
            return "image"
        return self._ask(source, {"task": "modality_of"})[0]["modality"]

    def read(self, source: Source, reading: Reading) -> Any:
        if isinstance(source, Image.Image | np.ndarray):
            return HERE.read(source, reading)
        task = {"task": "read", "modality": reading.modality, "options": reading.options}
        return unpacked(*self._ask(source, task))

    def size_of(self, source: MediaSource, modality: Modality) -> Size:
        header, _ = self._ask(source, {"task": "size_of", "modality": modality})
        return Size(*header["size"])

    def close(self) -> None:
        """End the processes; files being read raise an error."""
        self._closed = True
        for _ in range(self._workers):
            with contextlib.suppress(queue.Empty):
                if worker := self._idle.get(timeout=1):
                    worker.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _new(self) -> Worker:
        return Worker(self.seconds, self.megabytes)

    def _ask(self, source: Any, task: dict[str, Any]) -> tuple[dict[str, Any], Buffer]:
        name = name_of(source)
        source = whole(source)
        content = source if isinstance(source, bytes) else b""
        path = None if isinstance(source, bytes) else os.fspath(source)
        task = {**task, "path": path, "folder": os.getcwd(), "name": name}
        idle = self._idle.get()
        then: Worker | None = None  # reads the next file
        try:
            worker = idle or self._new()
            header, body = worker.ask(task, content)
            then = worker
        except Lost as lost:
            log.info("The reading process was lost (%s) while reading %s; starting another one.", lost, name)
            if not self._closed:
                with contextlib.suppress(EPALMError):  # else the next file starts it
                    then = self._new()
            raise EPALMError(lost.sentence(name, self.seconds)) from lost
        finally:
            self._idle.put(then)
        if problem := header.get("problem"):
            if header.get("traceback"):
                log.info("%s could not be read\n%s", name, header["traceback"])
            raise EPALMError(problem)
        return header, body


class Lost(Exception):
    """A reading process ended while reading a file."""

    def __init__(self, status: int | None, slow: bool) -> None:
        super().__init__("it took too long" if slow else f"exit status {status}")
        self.slow = slow

    def sentence(self, name: str, seconds: float) -> str:
        if self.slow:
            return f"{name} takes more than {seconds:.0f} seconds to read: make it shorter or smaller."
        return f"{name} crashes the program that opens it: it is damaged or too large for the memory."


class Worker:
    """One reading process.

    Raises:
        EPALMError: it cannot be started.
    """

    def __init__(self, seconds: float, megabytes: int) -> None:
        self.seconds = seconds
        root = str(Path(__file__).parents[2])
        # Large results use shared memory, which is many times faster than a pipe.
        self.shared = -1
        try:
            if hasattr(os, "memfd_create"):
                self.shared = os.memfd_create("epalm-reader")
            self.process = subprocess.Popen(
                [sys.executable, "-c", BOOT, root, str(seconds), str(megabytes), str(self.shared)],
                pass_fds=() if self.shared < 0 else (self.shared,),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            )
        except OSError as error:  # too little memory, too many processes or open files
            self._unshare()
            raise EPALMError(
                f"The program that reads files cannot be started ({error.strerror}): try again in a moment."
            ) from error
        self.ready = False

    def ask(self, task: dict[str, Any], content: bytes) -> tuple[dict[str, Any], Buffer]:
        """The worker's answer; raises Lost if it crashes or takes too long.

        After any error it has ended: on Ctrl-C, this answer must not be taken for the next file's.
        """
        try:
            if not self.ready:
                self._within(PATIENCE, lambda: receive(self._out))
                self.ready = True
            return self._within(self.seconds, lambda: self._exchange(task, content))
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                with contextlib.suppress(OSError):  # unwritten data
                    pipe.close()
        self._unshare()

    def _unshare(self) -> None:
        if self.shared >= 0:
            os.close(self.shared)
            self.shared = -1

    @property
    def _out(self) -> IO[bytes]:
        assert self.process.stdout is not None
        return self.process.stdout

    def _exchange(self, task: dict[str, Any], content: bytes) -> tuple[dict[str, Any], Buffer]:
        assert self.process.stdin is not None
        send(self.process.stdin, task, content)
        header, body = receive(self._out)
        if length := header.pop("shared", 0):
            body = bytearray(length)
            if os.preadv(self.shared, [body], 0) < length:
                raise EOFError
            os.ftruncate(self.shared, 0)
        return header, body

    def _within(
        self, seconds: float, work: Callable[[], tuple[dict[str, Any], Buffer]]
    ) -> tuple[dict[str, Any], Buffer]:
        late = threading.Event()

        def end() -> None:
            late.set()
            self.process.kill()

        timer = threading.Timer(seconds, end)
        timer.daemon = True
        timer.start()
        try:
            return work()
        except (EOFError, OSError, ValueError) as error:
            self.process.kill()
            status = self.process.wait()
            slow = late.is_set() or status == -getattr(signal, "SIGALRM", 0)
            raise Lost(status, slow) from error
        finally:
            timer.cancel()
