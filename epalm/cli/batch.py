"""Many files in one run: which ones they are, what becomes of each, and how far it is.

files, problems = find_files(["holiday", "street.mp3"])
run = Run(None, None, Progress(len(files)), show=print, say=print)
run.answer(model, run.media(files))
"""

from __future__ import annotations

import itertools
import mimetypes
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from epalm.errors import EPALMError
from epalm.media.container import MediaSource, Modality, whole
from epalm.media.reader import HERE, Reader
from epalm.model import EPALM, Request
from epalm.results import Results
from epalm.scoring import Answer

NAMES = mimetypes.MimeTypes()  # the built-in table alone: the same on every machine
CLEAR = "\r\x1b[K"  # go to the start of the terminal's line and empty it


@dataclass(frozen=True)
class File:
    """A file to describe; `named` if the user named it, rather than a folder that it is in.

    `content` is what came through a pipe, which can be read only once.
    """

    path: str
    named: bool
    content: bytes | None = None

    @property
    def source(self) -> MediaSource:
        return self.path if self.content is None else self.content

    def problem(self, error: EPALMError) -> EPALMError:
        """The error of reading the file, with its path where the reader only saw its content."""
        return error if self.content is None else EPALMError(f"{self.path}: {error}")


def find_files(paths: Sequence[str], results: Path | None = None) -> tuple[list[File], list[str]]:
    """The files that paths stand for, in the order of the paths, and a sentence about each unusable folder.

    Folders are searched through all levels, in the order of the names. Hidden files and folders, links to
    folders, whatever is not a regular file and the file of results are left out. No file is opened.
    """
    files: list[File] = []
    problems: list[str] = []
    for path in paths:
        if not os.path.isdir(path):
            files.append(File(path, named=True))
            continue
        found: list[str] = []
        unreadable: list[OSError] = []
        for folder, folders, names in os.walk(path, onerror=unreadable.append):
            folders[:] = [name for name in folders if not name.startswith(".")]
            found += [os.path.join(folder, name) for name in names if not name.startswith(".")]
        files += [File(name, named=False) for name in sorted(found) if is_input(name, results)]
        problems += [f"{error.filename} cannot be opened: {error.strerror}." for error in unreadable]
        if not found and not unreadable:
            problems.append(f"{path} is a folder without files (hidden ones do not count).")
    return files, problems


def is_input(path: str, results: Path | None) -> bool:
    """Whether a path is a regular file, and not one of results."""
    if not os.path.isfile(path):  # opening a named pipe would wait for ever
        return False
    if results is not None and results.is_dir():
        return not os.path.samefile(os.path.dirname(path) or ".", results)
    if results is None or os.path.basename(path) != results.name:
        return True
    return not (results.exists() and os.path.samefile(path, results))


def recognise(file: File, reader: Reader = HERE) -> Modality | None:
    """What a file is; None if it is none of the three and only lies in a folder with some.

    Raises:
        EPALMError: no media that can be read, although the user named it or its name ends like one of them.
    """
    try:
        return reader.modality_of(file.source)
    except EPALMError:
        kind = NAMES.guess_type(file.path)[0] or ""
        if file.named or (kind.startswith(("image/", "video/", "audio/")) and not kind.endswith("+xml")):
            raise
        return None


class Run:
    """Describing files one after the other: where the texts go, and what became of the rest.

    Args:
        question: None asks for captions.
        results: gets a row per file, if it is not None.
        show: told each result: file, adapter, task, text, log_probability, confidence, seconds.
        say: told in one sentence what was wrong with a file.
        reader: finds out what the files are.
    """

    def __init__(
        self,
        question: str | None,
        results: Results | None,
        progress: Progress,
        show: Callable[[dict[str, Any]], None],
        say: Callable[[str], None],
        reader: Reader = HERE,
    ):
        self.question = question
        self.task = "caption" if question is None else "qa"
        self.results = results
        self.progress = progress
        self.show = show
        self.say = say
        self.reader = reader
        self.described = 0
        self.refused = 0
        self.passed_over: Counter[str] = Counter()  # why -> how many files that only lay in a folder

    def media(self, files: Iterable[File]) -> Iterator[tuple[File, str]]:
        """The files that can be described, each with its modality."""
        for file in files:
            try:
                if isinstance(content := whole(file.path), bytes):
                    file = replace(file, content=content)
                modality = recognise(file, self.reader)
            except EPALMError as error:
                self._refuse(file.path, file.problem(error))
                continue
            if modality is None:
                self._pass_over("they are not pictures, videos or sounds.")
            else:
                yield file, modality

    def answer(
        self,
        model: EPALM,
        media: Iterable[tuple[File, str]],
        size: int = 1,
        beams: int | None = None,
        max_new_tokens: int | None = None,
    ) -> None:
        """Describe files, `size` at a time, and hand out each text as soon as it is there."""
        requests = self._requests(model, media)
        while batch := list(itertools.islice(requests, size)):
            started = time.perf_counter()
            answers = generate(model, [request for _, request in batch], beams, max_new_tokens)
            seconds = round((time.perf_counter() - started) / len(batch), 3)
            for (file, request), answer in zip(batch, answers, strict=True):
                if isinstance(answer, EPALMError):
                    self._refuse(file.path, file.problem(answer))
                else:
                    self._hand_out(file.path, str(request.adapter), answer, seconds)

    def _requests(self, model: EPALM, media: Iterable[tuple[File, str]]) -> Iterator[tuple[File, Request]]:
        """The files that this model has an adapter for."""
        for file, modality in media:
            try:
                adapter = model.adapter_for(modality, self.task)
            except EPALMError as error:
                if file.named:
                    self._refuse(file.path, error)
                else:
                    self._pass_over(str(error))
                continue
            yield file, Request(file.source, self.question, adapter)

    def _hand_out(self, path: str, adapter: str, answer: Answer, seconds: float) -> None:
        sure = None if answer.confidence is None else round(answer.confidence, 3)
        values: dict[str, Any] = {"text": answer.text, "log_probability": round(answer.log_probability, 3)}
        values |= {"confidence": sure, "seconds": seconds}
        if self.results:
            self.results.add(path, adapter=adapter, **values)
        self.progress.clear()
        self.show({"file": path, "adapter": adapter, "task": self.task, **values})
        self.described += 1
        self.progress.advance()

    def _refuse(self, path: str, error: EPALMError) -> None:
        if self.results:
            self.results.add(path, error=str(error))
        self.progress.clear()
        self.say(str(error))
        self.refused += 1
        self.progress.advance()

    def _pass_over(self, why: str) -> None:
        self.passed_over[why] += 1
        self.progress.advance(counts=False)


def generate(
    model: EPALM, batch: list[Request], beams: int | None, max_new_tokens: int | None
) -> list[Answer | EPALMError]:
    """An answer or an error for each request; where one of a batch is bad, the others are asked alone."""
    try:
        return [*model.answers(batch, beams, max_new_tokens)]
    except EPALMError as error:
        if len(batch) == 1:
            return [error]
        return [generate(model, [request], beams, max_new_tokens)[0] for request in batch]


class Progress:
    """How far a run of several files is: one line kept up to date on a terminal, else one now and then."""

    EVERY = 30.0  # seconds between lines where nobody watches

    def __init__(self, total: int):
        self.total = total
        self.done = 0
        self.several = total > 1
        self.live = sys.stderr.isatty()
        self.start()

    def start(self) -> None:
        """Count the time from now on."""
        self.started = self.shown = time.perf_counter()

    def advance(self, counts: bool = True) -> None:
        """One file less to go; one that turns out to be none of those to describe does not count."""
        self.done += counts
        self.total -= not counts
        now = time.perf_counter()
        last = self.done == self.total
        if self.several and self.done and (self.live or last or now - self.shown >= self.EVERY):
            self.shown = now
            text = progress_text(self.done, self.total, now - self.started)
            end = "" if self.live and not last else "\n"
            print(f"{CLEAR if self.live else ''}{text}", end=end, file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Make room on the terminal for a line of something else."""
        if self.live and self.several:
            print(CLEAR, end="", file=sys.stderr, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.clear()


def progress_text(done: int, total: int, seconds: float) -> str:
    """Such as "12 of 340, 0.6 s each, 3 min left", after so many seconds."""
    each = seconds / done
    text = f"{done} of {total}, {each:.{1 if each >= 0.1 else 2}f} s each"
    return text if done == total else f"{text}, {duration(each * (total - done))} left"


def duration(seconds: float) -> str:
    """A time as one says it: "40 s", "3 min", "2 h 5 min"."""
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
