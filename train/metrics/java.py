"""METEOR and SPICE, the Java programs of pycocoevalcap; `Unavailable` explains why they cannot run.

METEOR needs only the package (`pip install pycocoevalcap`) and Java 8 or newer. SPICE also needs Stanford's
models, about 400 MB, which `python -m pycocoevalcap.spice.get_stanford_models` downloads into the package.

We start the programs ourselves because the package's wrapper waits forever for a program that died and cannot
read numbers with a decimal comma.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from epalm.errors import EPALMError

Tokens = Sequence[str]
SPICE_MODELS = "stanford-corenlp-3.6.0.jar"
# Print numbers with a decimal point in any locale.
LANGUAGE = ("-Duser.language=en", "-Duser.country=US", "-Dfile.encoding=UTF-8")
SILENCE = 300.0  # seconds to wait for the next line of output
SPICE_SECONDS = 600.0, 10.0  # time limit: to start, and for each caption


class Unavailable(EPALMError):
    """Why a metric could not be computed on this machine, in one sentence."""


def package(metric: str) -> Path:
    """The folder of pycocoevalcap; Unavailable if it or Java is missing."""
    spec = importlib.util.find_spec("pycocoevalcap")
    if spec is None or not spec.submodule_search_locations:
        raise Unavailable(f"{metric} needs the package pycocoevalcap: pip install pycocoevalcap.")
    if not java_runs():
        raise Unavailable(f"{metric} needs Java: install a Java runtime so that `java -version` answers.")
    return Path(spec.submodule_search_locations[0])


def java_runs() -> bool:
    """Whether Java is installed and starts with the memory that METEOR needs."""
    try:
        command = ["java", "-Xmx2G", "-version"]
        return subprocess.run(command, capture_output=True, timeout=SILENCE).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def environment() -> dict[str, str]:
    """The environment, with the locale added to `_JAVA_OPTIONS`, which override command-line options."""
    found = dict(os.environ)
    if options := found.get("_JAVA_OPTIONS"):
        found["_JAVA_OPTIONS"] = " ".join((options, *LANGUAGE))
    return found


def meteor(captions: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> tuple[float, list[float]]:
    """METEOR 1.5 of the corpus and of each caption, in [0, 1]; the corpus value is not the captions' mean.

    Raises:
        Unavailable: Java or pycocoevalcap is missing, or the program crashes, hangs or prints garbage.
    """
    jar = package("METEOR") / "meteor" / "meteor-1.5.jar"
    command = ["java", *LANGUAGE, "-Xmx2G", "-jar", jar.name, "-", "-", "-stdio", "-l", "en", "-norm"]
    questions = (
        " ||| ".join(["SCORE", *map(" ".join, truths), " ".join(caption)])
        for caption, truths in zip(captions, references, strict=True)
    )
    with conversation("METEOR", command, jar.parent) as program:
        statistics = program.ask(questions, len(captions))
        answers = program.ask([" ||| ".join(["EVAL", *statistics])], len(captions) + 1)
    try:
        *scores, corpus = (float(answer.replace(",", ".")) for answer in answers)
    except ValueError as error:
        raise Unavailable(f"METEOR's Java program did not print numbers ({error}).") from error
    return corpus, scores


class Program:
    """A program that answers line by line.

    Args:
        metric: its name in error messages.
        errors: a file with the program's stderr.
    """

    def __init__(self, metric: str, process: subprocess.Popen[str], errors: Any):
        self.metric, self.process, self.errors = metric, process, errors

    def ask(self, lines: Any, answers: int) -> list[str]:
        """Send lines and return `answers` lines of output; Unavailable if there are fewer.

        A thread sends the lines because the program answers before it has read them all. A program that
        prints nothing for `SILENCE` seconds is killed, which ends the reading.
        """
        assert self.process.stdout is not None
        sender = threading.Thread(target=self._send, args=(lines,), daemon=True)
        sender.start()
        found: list[str] = []
        silent = threading.Event()
        while len(found) < answers:
            timer = threading.Timer(SILENCE, self._give_up, (silent,))
            timer.start()
            line = self.process.stdout.readline()
            timer.cancel()
            if not line:
                raise Unavailable(self._death(silent.is_set()))
            found.append(line.strip())
        sender.join()
        return found

    def _send(self, lines: Any) -> None:
        assert self.process.stdin is not None
        with suppress(OSError, ValueError):  # it died; the reading side reports it
            for line in lines:
                self.process.stdin.write(line + "\n")
            self.process.stdin.flush()

    def _give_up(self, silent: threading.Event) -> None:
        silent.set()
        self.process.kill()

    def _death(self, silent: bool) -> str:
        """One sentence on how the program ended."""
        if silent:
            return f"{self.metric}'s Java program did not answer for {SILENCE:.0f} seconds and was stopped."
        code = self.process.wait()
        self.errors.seek(0)
        said = [line.strip() for line in self.errors if line.strip() and not line.startswith("Picked up ")]
        why = f": {said[0][:200].rstrip('.')}" if said else ""
        return f"{self.metric}'s Java program ended early with code {code}{why}."


@contextmanager
def conversation(metric: str, command: Sequence[str], folder: Path) -> Iterator[Program]:
    """Run a program; it is killed at the end.

    Raises:
        Unavailable: it does not start.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
        try:
            process = subprocess.Popen(
                command,
                cwd=folder,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment(),
                encoding="utf-8",
                errors="replace",
            )
        except OSError as error:
            raise Unavailable(f"{metric}'s Java program does not start ({error.strerror}).") from error
        try:
            yield Program(metric, process, errors)
        finally:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                close(pipe)


def close(pipe: Any) -> None:
    """Close a pipe, even if its other end is gone."""
    with suppress(OSError):
        pipe.close()


def spice(captions: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> tuple[float, list[float]]:
    """SPICE (F-score over scene graph tuples) of the corpus and of each caption, in [0, 1].

    Raises:
        Unavailable: Java, pycocoevalcap or Stanford's models are missing, or the program fails.
    """
    folder = package("SPICE") / "spice"
    if not (folder / "lib" / SPICE_MODELS).is_file():
        raise Unavailable(
            "SPICE needs Stanford's models: python -m pycocoevalcap.spice.get_stanford_models fetches them."
        )
    rows = [
        {"image_id": i, "test": " ".join(caption), "refs": [" ".join(tokens) for tokens in truths]}
        for i, (caption, truths) in enumerate(zip(captions, references, strict=True))
    ]
    start, each = SPICE_SECONDS
    with tempfile.TemporaryDirectory() as made:
        asked, answered = Path(made) / "captions.json", Path(made) / "scores.json"
        asked.write_text(json.dumps(rows), encoding="utf-8")
        command = ["java", *LANGUAGE, "-Xmx8G", "-jar", "spice-1.0.jar", str(asked)]
        command += ["-out", str(answered), "-cache", made, "-subset", "-silent"]
        try:
            subprocess.run(
                command,
                cwd=folder,
                check=True,
                capture_output=True,
                env=environment(),
                timeout=start + each * len(rows),
            )
            found = {row["image_id"]: row["scores"]["All"]["f"] for row in json.loads(answered.read_bytes())}
            scores = [float("nan" if found[i] is None else found[i]) for i in range(len(rows))]
        except subprocess.CalledProcessError as error:
            raise Unavailable(
                f"SPICE's Java program failed with code {error.returncode}; it was written for Java 8."
            ) from error
        except subprocess.TimeoutExpired as error:
            raise Unavailable(
                f"SPICE's Java program did not finish within {error.timeout:.0f} seconds."
            ) from error
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise Unavailable(f"SPICE's Java program left no usable scores ({error}).") from error
    return sum(scores) / len(scores), scores
