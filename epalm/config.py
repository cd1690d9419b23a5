"""What an adapter's `config.json` says: small typed dataclasses, one JSON object each.

Unknown keys are refused with the closest valid one, so that a typo never turns into a silent default.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from epalm.errors import EPALMError

T = TypeVar("T")
FeatureLayer = int | tuple[int, ...]  # several: their features side by side, as one connector's input


def _at_least(least: int, number: int, name: str) -> None:
    if number < least:
        raise EPALMError(f"{name} must be at least {least}, but it is {number}.")


@dataclass(frozen=True)
class LMConfig:
    """The frozen language model an adapter was trained for."""

    id: str  # hub id, local folder or a starter backbone
    hidden_size: int  # H, width of the decoder layers
    embed_size: int  # E, width of the token embeddings (differs from H in OPT-350m)
    num_layers: int  # N
    model_type: str  # "opt", "llama", … as in the LM's own config
    revision: str | None = None  # commit on the hub


@dataclass(frozen=True)
class EncoderConfig:
    """The frozen perceptual encoder and which of its layers are read."""

    id: str
    # One entry per injected hidden state, shallowest first; negative = from the last layer.
    feature_layers: tuple[FeatureLayer, ...]
    widths: tuple[int, ...]  # width of the feature of each entry
    revision: str | None = None


@dataclass(frozen=True)
class InjectionConfig:
    """Where the perceptual tokens enter the LM (paper, section 3.2)."""

    start_layer_idx: int  # first LM layer whose row 0 may be overwritten
    end_layer_idx: int  # first LM layer after the range
    text_step: int = 1  # only layers whose index is a multiple of this are overwritten
    mask: Literal["causal", "reference"] = "causal"  # what the perceptual token's row may see

    def __post_init__(self) -> None:
        _at_least(1, self.text_step, "injection.text_step")


@dataclass(frozen=True)
class PromptConfig:
    """The soft prompt: `length` trained vectors before the text."""

    length: int
    mlp: bool  # re-parametrised by Linear, Tanh, Linear
    # A deep prompt: before this LM layer and all later ones, further trained vectors are added to its rows.
    deep_from: int | None = None

    def __post_init__(self) -> None:
        _at_least(1, self.length, "prompt.length")


@dataclass(frozen=True)
class TaskConfig:
    """How a request becomes text for the LM and how its answer is read."""

    name: Literal["caption", "qa"]
    modality: Literal["image", "video", "audio"]
    input: str  # text before the answer; "{question}" is replaced
    output: str = "{text}"  # how training texts write the answer after the input
    answer_token: str | None = None  # extra special token that ends the question (the original's "</a>")
    end_token: str | None = None  # what ends an answer; None = the LM's own end token


@dataclass(frozen=True)
class GenerationConfig:
    """Decoding defaults of an adapter; every call can override beams and length."""

    num_beams: int = 1
    max_new_tokens: int | None = None
    max_length: int | None = None  # the original's limit: counts input ids and new tokens together
    beam_scoring: Literal["library", "reference"] = "library"  # which length divides a hypothesis' score

    def __post_init__(self) -> None:
        for name in ("num_beams", "max_new_tokens", "max_length"):
            number = getattr(self, name)
            if number is not None:
                _at_least(1, number, f"generation.{name}")


@dataclass(frozen=True)
class ConfidenceConfig:
    """How often an adapter's answers are right, by their log-probability; fitted on held-out files."""

    slope: float
    offset: float

    def of(self, log_probability: float) -> float:
        """Share of answers with this mean log-probability per token (in nats) that are right, in 0…1."""
        return 0.5 + 0.5 * math.tanh(0.5 * (self.slope * log_probability + self.offset))  # cannot overflow


@dataclass(frozen=True)
class AdapterConfig:
    """Everything needed to rebuild an adapter's modules, its preprocessing and its prompts."""

    lm: LMConfig
    encoder: EncoderConfig
    injection: InjectionConfig
    prompt: PromptConfig | None
    task: TaskConfig
    generation: GenerationConfig
    recipe: dict[str, Any]  # preprocessing, see epalm.media.recipes
    shared_connector: bool = False
    confidence: ConfidenceConfig | None = None
    description: str = ""
    metrics: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        reads, widths = len(self.encoder.feature_layers), len(self.encoder.widths)
        if reads != widths or not reads:
            raise EPALMError(
                f"An adapter needs one width per feature layer, but has {reads} layers and {widths} widths."
            )
        if self.shared_connector and len(set(self.encoder.widths)) > 1:
            raise EPALMError(
                f"One connector for all needs features of one width, but those of {self.encoder.id} have "
                f"{self.encoder.widths}."
            )
        first, last, layers = self.injection.start_layer_idx, self.injection.end_layer_idx, self.lm.num_layers
        if not 0 <= first < last <= layers:
            raise EPALMError(
                f"The injection range {first} to {last} does not lie in the {layers} layers of {self.lm.id}."
            )
        self._check_deep_prompt()

    def _check_deep_prompt(self) -> None:
        deep_from = None if self.prompt is None else self.prompt.deep_from
        if deep_from is None:
            return
        first, layers = self.injection.start_layer_idx, self.lm.num_layers
        if not first <= deep_from < layers:  # below, the prompt is computed once for all requests
            raise EPALMError(
                f"prompt.deep_from must be a layer from {first}, where the perceptual token enters, to "
                f"{layers - 1}, but it is {deep_from}."
            )
        if self.injection.mask == "reference":
            raise EPALMError("A deep prompt (prompt.deep_from) needs the mask mode causal, not reference.")
        if self.lm.embed_size != self.lm.hidden_size:
            raise EPALMError(
                f"A deep prompt (prompt.deep_from) needs token embeddings as wide as the layers, but those "
                f"of {self.lm.id} have {self.lm.embed_size} and {self.lm.hidden_size} numbers."
            )

    @property
    def num_tokens(self) -> int:
        """Number of injected hidden states (n in the paper)."""
        return len(self.encoder.feature_layers)

    @property
    def deep_layers(self) -> int:
        """To how many of the LM's last layers a deep prompt adds vectors; 0 without one."""
        if self.prompt is None or self.prompt.deep_from is None:
            return 0
        return self.lm.num_layers - self.prompt.deep_from

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def load(cls, path: Path) -> AdapterConfig:
        """Read a `config.json`; EPALMError if it is missing, not JSON, or has unknown or missing keys."""
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except OSError:
            raise EPALMError(
                f"{path.parent} is not an adapter folder: it has no readable {path.name}."
            ) from None
        except ValueError as error:
            raise EPALMError(f"{path} is not valid JSON ({error}); save the adapter again.") from None
        return from_dict(cls, data, str(path))


def from_dict(cls: type[T], data: Any, where: str) -> T:
    """Build dataclass `cls` from plain JSON data, checking keys and types all the way down.

    Args:
        where: what is being read, for the error message.
    Raises:
        EPALMError: unknown key (names the closest valid one), missing key or a value of another type.
    """
    if not isinstance(data, dict):
        raise EPALMError(f"{where} must be an object with named fields, but it is {data!r}.")
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in data:
        if key not in fields:
            close = difflib.get_close_matches(key, fields, n=1, cutoff=0.0)
            raise EPALMError(f"{where} has the unknown key '{key}'; the closest valid key is '{close[0]}'.")
    types_ = typing.get_type_hints(cls)
    for name, spec in fields.items():
        required = spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING
        if required and name not in data:
            raise EPALMError(f"{where} lacks the key '{name}'.")
    return cls(**{key: _convert(types_[key], value, f"{where}, '{key}'") for key, value in data.items()})


def _convert(kind: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        kinds = [a for a in args if a is not type(None)]
        listed = [a for a in kinds if typing.get_origin(a) is tuple]
        return _convert((listed if isinstance(value, list | tuple) and listed else kinds)[0], value, where)
    if dataclasses.is_dataclass(kind):
        return from_dict(typing.cast(type, kind), value, where)
    if origin is Literal:
        if value not in args:
            choices = ", ".join(repr(a) for a in args)
            raise EPALMError(f"{where} is {value!r}, but it must be one of {choices}.")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise EPALMError(f"{where} must be a list, but it is {value!r}.")
        return tuple(_convert(args[0], v, where) for v in value)
    if origin is dict:
        if not isinstance(value, dict):
            raise EPALMError(f"{where} must be an object with named fields, but it is {value!r}.")
        return {k: _convert(args[1], v, f"{where}, '{k}'") for k, v in value.items()}
    if kind is Any:
        return value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise EPALMError(f"{where} must be of type {kind.__name__}, but it is {value!r}.")
    return value
