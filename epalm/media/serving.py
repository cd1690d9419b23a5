"""The process that reads files, and its protocol with the process that asks (`epalm.media.reader`).

A message is a JSON object followed by bytes. Nothing is pickled, so a process that a hostile file has taken
over can only send numbers. It does not import PyTorch.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import struct
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

from epalm.errors import EPALMError
from epalm.media.container import modality_of
from epalm.media.sizes import size_of

Buffer = bytes | bytearray | memoryview

SMALL = 1 << 16  # larger answers use shared memory instead of the pipe
LENGTHS = struct.Struct(">II")  # lengths of a message's JSON and of its bytes

# ---------------------------------------------------------------- messages


def send(file: IO[bytes], header: dict[str, Any], body: Buffer = b"") -> None:
    """Send a JSON object and bytes."""
    head = json.dumps(header).encode()
    file.write(LENGTHS.pack(len(head), len(body)))
    file.write(head)
    file.write(body)
    file.flush()


def receive(file: IO[bytes]) -> tuple[dict[str, Any], Buffer]:
    """Receive what `send` sent; EOFError if the message is incomplete."""
    lengths = LENGTHS.unpack(exactly(file, LENGTHS.size))
    head, body = (exactly(file, length) for length in lengths)
    return json.loads(head), body


def exactly(file: IO[bytes], length: int) -> bytes:
    data = file.read(length)
    if len(data) < length:
        raise EOFError
    return data


def packed(media: Any) -> tuple[dict[str, Any], memoryview]:
    """A picture, a sound's samples with their rate, or a clip -> a header and bytes for `unpacked`."""
    if isinstance(media, Image.Image):
        return {"kind": "image", "shape": media.size}, memoryview(media.tobytes())
    if isinstance(media, tuple):
        samples, rate = media
        return {"kind": "audio", "shape": samples.shape, "rate": rate}, flat(samples)
    facts = {"kind": "video", "shape": media.frames.shape, "times": media.times, "duration": media.duration}
    return facts, flat(media.frames)


def flat(array: np.ndarray) -> memoryview:
    return memoryview(np.ascontiguousarray(array).tobytes())


def writable(body: Buffer) -> bytearray:
    return body if isinstance(body, bytearray) else bytearray(body)


def unpacked(header: dict[str, Any], body: Buffer) -> Any:
    """The inverse of `packed`."""
    if header["kind"] == "image":
        width, height = header["shape"]
        return Image.fromarray(np.frombuffer(writable(body), np.uint8).reshape(height, width, 3))
    if header["kind"] == "audio":
        import torch

        from epalm.media.audio import Sound

        samples = np.frombuffer(writable(body), np.float32).reshape(header["shape"])
        return Sound(torch.from_numpy(samples), header["rate"])
    from epalm.media.video import Clip

    frames = np.frombuffer(writable(body), np.uint8).reshape(header["shape"])
    return Clip(frames, tuple(header["times"]), header["duration"])


# ---------------------------------------------------------------- the process that reads


def serve() -> None:
    """Answer tasks until the asking process is gone.

    Command-line arguments: time limit in seconds, memory limit in megabytes, file descriptor of the shared
    memory or -1.
    """
    seconds, megabytes, shared = float(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks
    asked = sys.stdin.buffer
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # libraries that print must not disturb the protocol
    from epalm.media import audio, image, video  # noqa: F401  # before the first file needs them

    bound_memory(megabytes)
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    send(answers, {"ready": True})
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            task, content = receive(asked)
            alarm(seconds + 5)  # ends a read that nobody waits for
            header, body = answer(task, content)
            alarm(0)
            if shared >= 0 and len(body) > SMALL:
                os.ftruncate(shared, 0)
                header["shared"] = len(body)
                body = body[os.pwrite(shared, body, 0) :]  # all of it
            send(answers, header, body)


def answer(task: dict[str, Any], content: Buffer) -> tuple[dict[str, Any], Buffer]:
    """The result of one task, or the error message about its file."""
    from epalm.media.audio import read_samples
    from epalm.media.image import open_image
    from epalm.media.video import open_video

    os.chdir(task["folder"])  # it may change while this process lives
    source = bytes(content) if task["path"] is None else task["path"]
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
        return {"problem": f"{task['name']} needs more memory than one file may use: make it smaller."}, b""


def alarm(seconds: float) -> None:
    """Let the system end this process after this time, even if native code never returns."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)


def bound_memory(megabytes: int) -> None:
    """Limit allocations to `megabytes` more than are used now, and write no core dumps."""
    try:
        import resource
    except ImportError:  # not on this system
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError, ValueError):  # Linux only
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        limit = used + (megabytes << 20)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
