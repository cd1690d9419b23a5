"""Who reads files: this process, or one that may be lost.

The libraries that decode files are native code. A damaged or hostile file can make them crash, run for ever
or fill the memory; a server must survive that. So it reads in a process of its own, which is started again:

with ReadingProcess() as reader:
    clip = recipe.open("clip.mp4", reader)

What comes back is plain numbers, never a pickle. The reading process imports no PyTorch.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import signal
import struct
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol, Self

import numpy as np
from PIL import Image

from epalm.errors import EPALMError
from epalm.media.container import MediaSource, Modality, Source, modality_of, name_of, whole
from epalm.media.sizes import Size, size_of

log = logging.getLogger(__name__)

SECONDS = 60.0  # that reading one file may take
MEGABYTES = 3072  # that it may add to the reading process
PATIENCE = 60.0  # seconds that a reading process may take to start on a busy machine

BOOT = "import sys; sys.path.insert(0, sys.argv[1]); from epalm.media.reader import serve; serve()"
LENGTHS = struct.Struct(">II")  # of a message's JSON, and of the bytes after it


@dataclass(frozen=True)
class Reading:
    """What is needed of a file: its modality, and arguments of the function that opens it."""

    modality: Modality
    options: dict[str, Any] = field(default_factory=dict)


class Reader(Protocol):
    """Reads files; the methods raise EPALMError about a file that cannot be read."""

    def modality_of(self, source: Source) -> Modality:
        """What a file is, by its content."""
        ...

    def read(self, source: Source, reading: Reading) -> Any:
        """A PIL image, a Clip or a Sound."""
        ...

    def size_of(self, source: MediaSource, modality: Modality) -> Size:
        """How large it is, by its header; an unreadable one is left to `read`."""
        ...


class ThisProcess:
    """Reads where it is called."""

    def modality_of(self, source: Source) -> Modality:
        return modality_of(source)

    def read(self, source: Source, reading: Reading) -> Any:
        from epalm.media.audio import open_audio
        from epalm.media.image import open_image
        from epalm.media.video import open_video

        if reading.modality == "image":
            return open_image(source)
        if isinstance(source, Image.Image | np.ndarray):
            raise EPALMError(f"A picture in memory is not {article(reading.modality)}: give a file.")
        return (open_video if reading.modality == "video" else open_audio)(source, **reading.options)

    def size_of(self, source: MediaSource, modality: Modality) -> Size:
        return size_of(source, modality)


HERE = ThisProcess()


def article(modality: Modality) -> str:
    return {"image": "a picture", "video": "a video", "audio": "a sound"}[modality]


# ---------------------------------------------------------------- the process that asks


class ReadingProcess:
    """Reads in other processes, up to `workers` files at once. Threads may share it.

    Args:
        seconds: after which a file is given up.
        megabytes: of memory that reading a file may take, where the system can bound it (Linux).
        workers: processes; each is started when it is first needed, and again when it was lost.
    """

    def __init__(self, seconds: float = SECONDS, megabytes: int = MEGABYTES, workers: int = 1) -> None:
        self.seconds, self.megabytes = seconds, megabytes
        self._idle: queue.LifoQueue[Worker | None] = queue.LifoQueue()
        for _ in range(workers):
            self._idle.put(None)
        self._closed = False
        self._workers = workers

    def start(self) -> Self:
        """Start one process now, so that the first file need not wait for it."""
        worker = self._idle.get()
        self._idle.put(worker or self._new())
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
        """End the processes; whoever reads just now gets an error."""
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

    def _ask(self, source: Any, task: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        name = name_of(source)
        source = whole(source)
        content = source if isinstance(source, bytes) else b""
        path = None if isinstance(source, bytes) else os.fspath(source)
        task = {**task, "path": path, "folder": os.getcwd(), "name": name}
        worker = self._idle.get() or self._new()
        then: Worker | None = worker  # who reads the next file
        try:
            header, body = worker.ask(task, content)
        except Lost as lost:
            worker.stop()
            log.info("The reading process was lost (%s) by %s; another one is started.", lost, name)
            then = None if self._closed else self._new()
            raise EPALMError(lost.sentence(name, self.seconds)) from lost
        except BaseException:  # Ctrl-C: its answer would be taken for the next one's
            worker.stop()
            then = None
            raise
        finally:
            self._idle.put(then)
        if problem := header.get("problem"):
            if header.get("traceback"):
                log.info("%s could not be read\n%s", name, header["traceback"])
            raise EPALMError(problem)
        return header, body


class Lost(Exception):
    """A reading process ended in the middle of its work."""

    def __init__(self, status: int | None, slow: bool) -> None:
        super().__init__("it took too long" if slow else f"exit status {status}")
        self.slow = slow

    def sentence(self, name: str, seconds: float) -> str:
        if self.slow:
            return f"{name} takes more than {seconds:.0f} seconds to read: make it shorter or smaller."
        return f"{name} makes the program that opens it crash: it is damaged, or too large for the memory."


class Worker:
    """One reading process."""

    def __init__(self, seconds: float, megabytes: int) -> None:
        self.seconds = seconds
        root = str(Path(__file__).parents[2])
        self.process = subprocess.Popen(
            [sys.executable, "-c", BOOT, root, str(seconds), str(megabytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
        self.ready = False

    def ask(self, task: dict[str, Any], content: bytes) -> tuple[dict[str, Any], bytes]:
        """Its answer; raises Lost if it ends or takes too long instead."""
        if not self.ready:
            self._within(PATIENCE, lambda: receive(self._out))
            self.ready = True
        return self._within(self.seconds, lambda: self._exchange(task, content))

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                with contextlib.suppress(OSError):  # what could not be written any more
                    pipe.close()

    @property
    def _out(self) -> IO[bytes]:
        assert self.process.stdout is not None
        return self.process.stdout

    def _exchange(self, task: dict[str, Any], content: bytes) -> tuple[dict[str, Any], bytes]:
        assert self.process.stdin is not None
        send(self.process.stdin, task, content)
        return receive(self._out)

    def _within(
        self, seconds: float, work: Callable[[], tuple[dict[str, Any], bytes]]
    ) -> tuple[dict[str, Any], bytes]:
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


# ---------------------------------------------------------------- messages


def send(file: IO[bytes], header: dict[str, Any], body: bytes | memoryview = b"") -> None:
    """A JSON object and bytes."""
    head = json.dumps(header).encode()
    file.write(LENGTHS.pack(len(head), len(body)))
    file.write(head)
    file.write(body)
    file.flush()


def receive(file: IO[bytes]) -> tuple[dict[str, Any], bytes]:
    """What `send` sent; EOFError where nothing or not all of it comes."""
    lengths = LENGTHS.unpack(exactly(file, LENGTHS.size))
    head, body = (exactly(file, length) for length in lengths)
    return json.loads(head), body


def exactly(file: IO[bytes], length: int) -> bytes:
    data = file.read(length)
    if len(data) < length:
        raise EOFError
    return data


def packed(media: Any) -> tuple[dict[str, Any], memoryview]:
    """A picture, the samples of a sound with their rate, or a clip -> what `unpacked` takes."""
    if isinstance(media, Image.Image):
        return {"kind": "image", "shape": media.size}, memoryview(media.tobytes())
    if isinstance(media, tuple):
        samples, rate = media
        return {"kind": "audio", "shape": samples.shape, "rate": rate}, flat(samples)
    facts = {"kind": "video", "shape": media.frames.shape, "times": media.times, "duration": media.duration}
    return facts, flat(media.frames)


def flat(array: np.ndarray) -> memoryview:
    return memoryview(np.ascontiguousarray(array).tobytes())


def unpacked(header: dict[str, Any], body: bytes) -> Any:
    """The inverse of `packed`."""
    if header["kind"] == "image":
        return Image.frombuffer("RGB", tuple(header["shape"]), body, "raw", "RGB", 0, 1)
    if header["kind"] == "audio":
        import torch

        from epalm.media.audio import Sound

        samples = np.frombuffer(bytearray(body), np.float32).reshape(header["shape"])
        return Sound(torch.from_numpy(samples), header["rate"])
    from epalm.media.video import Clip

    frames = np.frombuffer(bytearray(body), np.uint8).reshape(header["shape"])
    return Clip(frames, tuple(header["times"]), header["duration"])


# ---------------------------------------------------------------- the process that reads


def serve() -> None:
    """Answer until nobody asks any more. Arguments: seconds and megabytes that a file may take."""
    seconds, megabytes = float(sys.argv[2]), int(sys.argv[3])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks
    asked = sys.stdin.buffer
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    from epalm.media import audio, image, video  # noqa: F401  # before the first file waits for it

    bound_memory(megabytes)
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    send(answers, {"ready": True})
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            task, content = receive(asked)
            alarm(seconds + 5)  # ends a read that nobody waits for any more
            header, body = answer(task, content)
            alarm(0)
            send(answers, header, body)


def answer(task: dict[str, Any], content: bytes) -> tuple[dict[str, Any], bytes | memoryview]:
    """The result of one task, or the sentence about the file."""
    from epalm.media.audio import read_samples
    from epalm.media.image import open_image
    from epalm.media.video import open_video

    os.chdir(task["folder"])  # which may change while this process lives
    source = content if task["path"] is None else task["path"]
    functions: dict[str, Callable[..., Any]] = {
        "image": open_image,
        "video": open_video,
        "audio": read_samples,
    }
    try:
        if task["task"] == "modality_of":
            return {"modality": modality_of(source)}, b""
        if task["task"] == "size_of":
            return {"size": size_of(source, task["modality"])}, b""
        return packed(functions[task["modality"]](source, **task["options"]))
    except EPALMError as error:
        cause = error.__cause__
        trace = "".join(traceback.format_exception(cause)) if cause else None
        return {"problem": str(error), "traceback": trace}, b""
    except MemoryError:
        return {"problem": f"{task['name']} needs more memory than a file may take: make it smaller."}, b""


def alarm(seconds: float) -> None:
    """Let the system end this process after so many seconds, also where native code never returns."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)


def bound_memory(megabytes: int) -> None:
    """Let allocations beyond what is used now and `megabytes` fail, and write no memory to the disk."""
    try:
        import resource
    except ImportError:  # not on this system
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError, ValueError):  # known on Linux alone
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        limit = used + (megabytes << 20)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
