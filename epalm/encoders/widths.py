"""How an adapter names the features of its encoder, and how wide they are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from epalm.config import EncoderConfig, FeatureLayer
from epalm.errors import EPALMError


def parts(entry: FeatureLayer | Sequence[int]) -> tuple[int, ...]:
    """The layers of one connector's input: one, or several whose features stand side by side."""
    return (entry,) if isinstance(entry, int) else tuple(entry)


def told(names: Sequence[str]) -> str:
    """Names of features that stand side by side: "class probabilities, stages 0 to 3"."""
    runs: list[list[str]] = []
    for name in names:
        kind, _, number = name.rpartition(" ")
        before = runs[-1][-1] if runs else ""
        follows = number.isdigit() and before == f"{kind} {int(number) - 1}"
        if follows:
            runs[-1].append(name)
        else:
            runs.append([name])
    shown = []
    for run in runs:
        kind, _, first = run[0].rpartition(" ")
        shown.append(run[0] if len(run) == 1 else f"{kind}s {first} to {run[-1].rpartition(' ')[2]}")
    return ", ".join(shown)


class Widths(tuple[int, ...]):
    """The width of each feature that an encoder gives.

    First those of its layers, shallowest first; then what its own head says of the last one, such as class
    probabilities. A layer's index may be negative, counted from the last layer; the head's indices go on
    after the last layer's.

    Attributes:
        layers: how many of the features are layers'; the others are the head's.
    """

    layers: int

    def __new__(cls, widths: Iterable[int], layers: int | None = None) -> Widths:
        self = super().__new__(cls, widths)
        if layers is None:  # as in what is copied, or all of them
            layers = widths.layers if isinstance(widths, Widths) else len(self)
        self.layers = layers
        return self

    def place(self, layer: int) -> int:
        """The index from 0 of a feature; EPALMError if there is no such one."""
        place = layer + self.layers if layer < 0 else layer
        if not 0 <= place < len(self):
            head = f" and {len(self) - self.layers} of its head" if len(self) > self.layers else ""
            raise EPALMError(
                f"There is no layer {layer}: the encoder has {self.layers} layers{head}, "
                f"named {-self.layers} to {len(self) - 1}."
            )
        return place

    def places(self, entries: Iterable[FeatureLayer | Sequence[int]]) -> list[tuple[int, ...]]:
        """For each connector's input, the indices from 0 of the features that stand side by side in it."""
        return [tuple(self.place(layer) for layer in parts(entry)) for entry in entries]

    def of(self, entries: Iterable[FeatureLayer | Sequence[int]]) -> tuple[int, ...]:
        """The width of each connector's input."""
        return tuple(sum(self[place] for place in places) for places in self.places(entries))

    def check(self, config: EncoderConfig, name: str) -> None:
        """Refuse an encoder that does not give what an adapter reads.

        Args:
            name: of the encoder that is there.
        Raises:
            EPALMError: names both sides.
        """
        found = self.of(config.feature_layers)
        if found != config.widths:
            raise EPALMError(
                f"The adapter was trained for {config.id} with features of widths {list(config.widths)}, "
                f"but {name} gives {list(found)}."
            )
