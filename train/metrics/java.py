"""METEOR and SPICE through pycocoevalcap, where Java and the package allow; `Unavailable` says why not.

METEOR runs from the package alone (`pip install pycocoevalcap`, any Java from 8). SPICE also needs Stanford's
models, about 400 MB, which the package downloads into itself:
`python -m pycocoevalcap.spice.get_stanford_models`.
"""

from __future__ import annotations

import importlib.util
import subprocess
from collections.abc import Sequence
from pathlib import Path

from epalm.errors import EPALMError

Tokens = Sequence[str]
SPICE_MODELS = "stanford-corenlp-3.6.0.jar"


class Unavailable(EPALMError):
    """One sentence on what a metric lacks on this machine."""


def package(metric: str) -> Path:
    """The folder of pycocoevalcap, once Java is there as well."""
    spec = importlib.util.find_spec("pycocoevalcap")
    if spec is None or not spec.submodule_search_locations:
        raise Unavailable(f"{metric} needs the package pycocoevalcap: pip install pycocoevalcap.")
    if not java_runs():
        raise Unavailable(f"{metric} needs Java: install a Java runtime so that `java -version` answers.")
    return Path(spec.submodule_search_locations[0])


def java_runs() -> bool:
    """Whether there is a Java, and it starts with the memory that METEOR asks for."""
    try:
        return subprocess.run(["java", "-Xmx2G", "-version"], capture_output=True).returncode == 0
    except OSError:
        return False


def as_pycocoevalcap(sentences: Sequence[Sequence[Tokens]]) -> dict[int, list[str]]:
    return {i: [" ".join(tokens) for tokens in item] for i, item in enumerate(sentences)}


def meteor(captions: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> tuple[float, list[float]]:
    """METEOR 1.5 of the corpus and of each caption, in [0, 1]; the corpus value is not the captions' mean.

    Raises:
        Unavailable: without Java or pycocoevalcap.
    """
    package("METEOR")
    from pycocoevalcap.meteor.meteor import Meteor

    corpus, scores = Meteor().compute_score(
        as_pycocoevalcap(references), as_pycocoevalcap([[caption] for caption in captions])
    )
    return corpus, scores


def spice(captions: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> tuple[float, list[float]]:
    """SPICE (F-score over scene graph tuples) of the corpus and of each caption, in [0, 1].

    Raises:
        Unavailable: without Java, pycocoevalcap or Stanford's models, or if the Java program fails.
    """
    if not (package("SPICE") / "spice" / "lib" / SPICE_MODELS).is_file():
        raise Unavailable(
            "SPICE needs Stanford's models: python -m pycocoevalcap.spice.get_stanford_models fetches them."
        )
    from pycocoevalcap.spice.spice import Spice

    try:
        corpus, scores = Spice().compute_score(
            as_pycocoevalcap(references), as_pycocoevalcap([[caption] for caption in captions])
        )
    except subprocess.CalledProcessError as error:
        raise Unavailable(
            f"SPICE's Java program failed with code {error.returncode}: pycocoevalcap asks for Java 8."
        ) from error
    return float(corpus), [score["All"]["f"] for score in scores]
