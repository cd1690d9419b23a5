"""What an ablation compares: small trainings of an image adapter that differ in one thing each.

title: …
work: runs/starter          # where `python -m train starter --data-only` put the features
out: runs/studies/…
seeds: [0, 1, 2]
groups:
  - name: What the connectors read
    trial: {task: caption, reads: [probabilities, pooled, stages], …}
    rows:
      the probabilities alone: {reads: [probabilities]}
"""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from epalm.config import FeatureLayer, from_dict
from epalm.errors import EPALMError
from train.settings import read_yaml
from train.starter.pictures.batches import POOLED, PROBABILITIES, STAGES

READS: dict[str, tuple[int, ...]] = {  # the encoder's layers, in the order of a connector's input
    "probabilities": (PROBABILITIES,),
    "pooled": (POOLED,),
    "stages": STAGES,
}


@dataclass(frozen=True)
class Trial:
    """One small training.

    Attributes:
        reads: what every connector gets: "probabilities", "pooled", "stages".
        start: of the columns of the probabilities: what a class' name leaves in the LM, or random numbers.
        shows: shares of a batch: "scenes" (with human captions), "things" (photos of classes), "draws" (from
            the classifier).
        first, end: the LM layers whose row 0 is overwritten.
        prompt: what the soft prompt begins as.
        steps: 0 measures the start.
    """

    task: Literal["caption", "qa"]
    reads: tuple[str, ...]
    start: Literal["closed form", "random"]
    shows: dict[str, float]
    first: int
    prompt: str
    steps: int
    end: int = 28
    tokens: int = 4
    batch: int = 24
    lr: float = 2e-3
    prompt_lr: float = 2e-3

    def __post_init__(self) -> None:
        for name in self.reads:
            if name not in READS:
                raise EPALMError(f"reads: {name!r} is not one of {', '.join(READS)}.")
        for name in self.shows:
            if name not in ("scenes", "things", "draws"):
                raise EPALMError(f"shows: {name!r} is not one of scenes, things, draws.")

    @property
    def layer(self) -> FeatureLayer:
        """The encoder's layers that stand side by side in every connector's input."""
        return tuple(layer for name in READS if name in self.reads for layer in READS[name])


@dataclass(frozen=True)
class Rows:
    """Rows that belong together.

    Attributes:
        trial: what they share.
        rows: by name, what each changes in it.
    """

    name: str
    trial: dict[str, Any]
    rows: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Ablation:
    """What is compared.

    Attributes:
        work: folder with the starter's features.
        scenes: how many held-out photos with human captions are described after each training.
        things: how many held-out photos of classes are.
    """

    title: str
    work: str
    out: str
    seeds: tuple[int, ...]
    groups: tuple[Rows, ...]
    scenes: int = 150
    things: int = 200
    where: str = field(default="", compare=False)

    def trial(self, group: Rows, row: str) -> Trial:
        """The training of a row.

        Raises:
            EPALMError: unknown or missing keys, values of another kind.
        """
        return from_dict(Trial, group.trial | group.rows[row], f"{self.title}: {group.name}: {row}")

    def runs(self) -> list[Run]:
        """All trainings, seed by seed, so that what is stopped has something of every row.

        A row without training is measured once, for nothing in it is drawn; one that is in several groups
        is trained once.
        """
        runs = []
        for seed in self.seeds:
            for group in self.groups:
                for row in group.rows:
                    trial = self.trial(group, row)
                    if trial.steps or trial.start == "random" or seed == self.seeds[0]:
                        runs.append(Run(group.name, row, seed, trial, Path(self.out)))
        return runs


@dataclass(frozen=True)
class Run:
    """A row with a seed."""

    group: str
    row: str
    seed: int
    trial: Trial
    studies: Path

    @property
    def out(self) -> Path:
        """A folder named after the settings, so that rows and groups may be renamed."""
        digest = hashlib.sha256(repr(self.trial).encode()).hexdigest()[:8]
        return self.studies / f"{self.trial.task}-{self.seed}-{digest}"


def load_ablation(path: Path) -> Ablation:
    """Read a YAML file.

    Raises:
        EPALMError: no such file, no YAML, unknown or missing keys, no seeds or rows.
    """
    ablation = from_dict(Ablation, read_yaml(path), str(path))
    if not ablation.seeds or not ablation.groups or not all(group.rows for group in ablation.groups):
        raise EPALMError(f"{path} needs at least one seed, one group, and one row in every group.")
    return dataclasses.replace(ablation, where=str(path))
