"""A training's YAML file as typed dataclasses; unknown keys are errors that name the closest valid one.

settings = load_settings(Path("train/configs/image/coco-caption-opt-2.7b.yaml"), ["optim.lr=1e-4"])
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from epalm.config import (
    AdapterConfig,
    EncoderConfig,
    FeatureLayer,
    GenerationConfig,
    InjectionConfig,
    LMConfig,
    PromptConfig,
    TaskConfig,
    from_dict,
)
from epalm.encoders.widths import Widths
from epalm.errors import EPALMError, reason
from epalm.files import write_atomic
from train.data.benchmarks import find_dataset
from train.data.manifest import Item, load_manifest
from train.metrics import JAVA_METRICS

LONGEST_WARMUP = 0.5  # a training that is all warm-up never reaches its learning rates


@dataclass(frozen=True)
class Model:
    """The adapter's shape and its frozen models; sizes are read from the models."""

    lm: str  # hub id, folder or starter backbone
    encoder: str
    recipe: str  # name of a preprocessing recipe of the modality; "timm": the image encoder's own
    feature_layers: tuple[FeatureLayer, ...]  # of the encoder, one entry per injected hidden state
    start_layer: int  # first LM layer whose row 0 is overwritten
    end_layer: int  # first LM layer after the range
    mask: Literal["causal", "reference"] = "causal"
    shared_connector: bool = False
    prompt_length: int = 10  # 0: no soft prompt
    prompt_mlp: bool = True
    prompt_deep_from: int | None = None  # first LM layer where a deep prompt adds vectors; None: not deep
    lm_revision: str | None = None
    encoder_revision: str | None = None
    prompt_text: str | None = None  # the soft prompt starts as the embedding of these words


@dataclass(frozen=True)
class MoreData:
    """An additional training set of the same modality for the same adapter, possibly with another task."""

    train: str
    weight: float = 1.0  # how often each of its items is seen in an epoch, on average
    task: TaskConfig | None = None  # None: the training's own


@dataclass(frozen=True)
class Data:
    """Manifests and the feature cache."""

    dataset: str  # a benchmark's name, which fixes task, modality and metrics
    train: str
    val: str
    test: str | None = None
    cache: str | None = None  # None: encode the files in every epoch
    draws: int = 0  # augmented views per file to train on; 0 = the file as it is
    workers: int = 4
    more: tuple[MoreData, ...] = ()  # trained together with `train`


@dataclass(frozen=True)
class Optim:
    """Optimisation. In `reference` mode groups, schedule and loss are the original's."""

    epochs: int
    batch: int  # items per process and forward pass
    lr: float  # of the connectors
    prompt_lr: float
    min_lr: float = 0.0
    warmup_lr: float = 0.0
    warmup: float = 0.1  # share of the optimizer steps with rising rates; unused in `reference` mode
    warmup_blocks: int = 0  # `reference` mode: blocks of 100 iterations in the first epoch
    weight_decay: float = 0.02
    accumulate: int = 1  # forward passes per optimizer step
    clip: float | None = 1.0  # largest gradient norm
    precision: Literal["no", "fp16", "bf16"] = "no"
    seed: int = 42
    save_every: int = 200  # optimizer steps


@dataclass(frozen=True)
class Evaluation:
    """How often a training is validated, and on how many items."""

    batch: int = 16
    limit: int | None = None  # items of the validation split used to select the best epoch
    every: int = 1  # epochs between validations; the last epoch is always validated
    patience: int | None = None  # stop after this many validations without improvement
    metric: str | None = None  # selects the best epoch and is compared; None: the benchmark's first one


@dataclass(frozen=True)
class Settings:
    """A whole training."""

    model: Model
    task: TaskConfig
    data: Data
    optim: Optim
    generation: GenerationConfig
    out: str  # run folder
    evaluation: Evaluation = Evaluation()
    reference: bool = False  # the original's optimizer groups, schedule, loss and dropout
    limit: float = 1.0  # fraction of the training items, the same for the same seed
    # Start from this adapter instead of a new one: a run or adapter folder, a hub id,
    # "starter/image-caption".
    init_from: str | None = None
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = ()
    paper: dict[str, float] = field(default_factory=dict)  # the paper's numbers, as fractions

    def __post_init__(self) -> None:
        dataset = find_dataset(self.data.dataset)
        if (self.task.name, self.task.modality) != (dataset.task, dataset.modality):
            raise EPALMError(
                f"{dataset.name} is {dataset.modality} {dataset.task}, but the settings' task is "
                f"{self.task.modality} {self.task.name}."
            )
        if self.evaluation.metric not in (None, *dataset.metrics):
            raise EPALMError(
                f"evaluation.metric is {self.evaluation.metric!r}, but {dataset.name} has "
                f"{', '.join(dataset.metrics)}."
            )
        if self.evaluation.metric in JAVA_METRICS:
            others = [metric for metric in dataset.metrics if metric not in JAVA_METRICS]
            raise EPALMError(
                f"evaluation.metric is {self.evaluation.metric!r}, which a training cannot be validated by "
                f"because it starts Java: choose one of {', '.join(others)}."
            )
        assert self.recipe  # raises if it is unknown
        if not 0 < self.limit <= 1:
            raise EPALMError(f"limit is {self.limit}, but it must be a fraction above 0 and at most 1.")
        least = {
            "optim": {"epochs": 1, "batch": 1, "accumulate": 1, "save_every": 1, "warmup_blocks": 0},
            "evaluation": {"batch": 1, "every": 1, "limit": 1, "patience": 1},
            "data": {"draws": 0, "workers": 1},
            "model": {"prompt_length": 0},
        }
        for part, names in least.items():
            for name, smallest in names.items():
                value = getattr(getattr(self, part), name)
                if value is not None and value < smallest:
                    raise EPALMError(f"{part}.{name} must be at least {smallest}, but it is {value}.")
        if self.model.prompt_deep_from is not None and not self.model.prompt_length:
            raise EPALMError("model.prompt_deep_from needs a soft prompt, but model.prompt_length is 0.")
        if not 0 <= self.optim.warmup <= LONGEST_WARMUP:
            raise EPALMError(
                f"optim.warmup is {self.optim.warmup:g}, but it is a share of the steps, such as 0.1, and at "
                f"most {LONGEST_WARMUP}."
            )
        for more in self.data.more:
            if more.weight <= 0:
                raise EPALMError(f"The weight of {more.train} must be above 0, but it is {more.weight:g}.")
            if more.task is not None and more.task.modality != self.task.modality:
                raise EPALMError(
                    f"The task of {more.train} is for {more.task.modality}, but this training is for "
                    f"{self.task.modality}."
                )
        for name in ("lr", "prompt_lr"):
            if getattr(self.optim, name) <= 0:
                raise EPALMError(f"optim.{name} must be above 0, but it is {getattr(self.optim, name)}.")

    @property
    def recipe(self) -> Any:
        """The preprocessing."""
        from epalm.media.recipes import find_recipe  # brings PyTorch

        return find_recipe(self.task.modality, self.model.recipe, self.model.encoder)

    def items(self, split: str) -> list[Item]:
        """The items of the split "train", "val" or "test".

        Raises:
            EPALMError: the settings do not name this split, or its manifest is invalid.
        """
        path = getattr(self.data, split)
        if path is None:
            raise EPALMError(f"The settings name no {split} split: set data.{split} to its manifest.")
        return load_manifest(Path(path))

    @property
    def metric(self) -> str:
        """The metric that selects the best epoch."""
        return self.evaluation.metric or find_dataset(self.data.dataset).metrics[0]

    def encoder_config(self, widths: Sequence[int]) -> EncoderConfig:
        """The encoder part of the adapter's config.

        Args:
            widths: of the encoder's features, one per layer.
        Raises:
            EPALMError: the encoder has no such layer.
        """
        model = self.model
        used = Widths(widths).of(model.feature_layers)
        return EncoderConfig(model.encoder, model.feature_layers, used, model.encoder_revision)

    @property
    def prompt_config(self) -> PromptConfig | None:
        """The soft prompt of the adapter's config."""
        model = self.model
        if not model.prompt_length:
            return None
        return PromptConfig(model.prompt_length, model.prompt_mlp, model.prompt_deep_from)

    def adapter_config(self, lm: LMConfig, widths: Sequence[int]) -> AdapterConfig:
        """The adapter's config.json.

        Args:
            lm: the LM and its sizes.
            widths: of the encoder's features, one per layer.
        Raises:
            EPALMError: the LM or the encoder has no such layers.
        """
        model = self.model
        return AdapterConfig(
            lm=lm,
            encoder=self.encoder_config(widths),
            injection=InjectionConfig(model.start_layer, model.end_layer, mask=model.mask),
            prompt=self.prompt_config,
            task=self.task,
            generation=self.generation,
            recipe=self.recipe.to_dict(),
            shared_connector=model.shared_connector,
            description=f"{find_dataset(self.data.dataset).title}, trained with this project",
        )


def load_settings(path: Path, overrides: Sequence[str] = ()) -> Settings:
    """Read a YAML file.

    Args:
        overrides: "a.b=value", with the value in YAML.

    Raises:
        EPALMError: the file is missing or not YAML, an override is not one, or keys or values are wrong.
    """
    content = read_yaml(path)
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise EPALMError(f"--set {override!r} is not a setting: write it as optim.lr=1e-4.")
        *parents, last = key.strip().split(".")
        place = content
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise EPALMError(f"--set {override!r}: {parent!r} is a value, not a group of settings.")
        try:
            place[last] = yaml.load(value, Loader)
        except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that does not exist
            raise EPALMError(f"--set {override!r} is not valid YAML ({reason(error)}).") from error
    return from_dict(Settings, content, str(path))


def read_yaml(path: Path) -> dict[str, Any]:
    """The content of a YAML file of named settings.

    Raises:
        EPALMError: the file is missing, is not YAML, or has no named settings.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader)
    except OSError as error:
        raise EPALMError(f"The settings {path} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, ValueError) as error:
        raise EPALMError(f"{path} is not valid YAML ({reason(error)}).") from error
    if not isinstance(content, dict):
        raise EPALMError(f"{path} must have named settings, such as `model:`, but it has {content!r}.")
    return content


class Loader(yaml.SafeLoader):
    """YAML with plain values as in YAML 1.2: `no` is a string and 1e-4 a number, unlike in YAML 1.1."""


Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in rules if not tag.endswith((":bool", ":float"))]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(?:true|false)$"), list("tf"))
Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\d+\.\d*|\.\d+|\d+(?=[eE]))(?:[eE][-+]?\d+)?$"),
    list("-+.0123456789"),
)


def save_settings(settings: Settings, path: Path) -> None:
    """Write all settings, defaults included."""
    plain = _plain(dataclasses.asdict(settings))
    write_atomic(path, [yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)])


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, tuple | list) else value
