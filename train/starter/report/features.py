"""Features of held-out media and of what they are compared with, encoded once for any number of reports."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from epalm.encoders.base import Encoder, side_by_side
from epalm.files import atomic
from epalm.media.recipes import Recipe
from epalm.model import EPALM

PART = 250  # media in a file: what is lost if the command is stopped
AT_ONCE = {"image": 16, "video": 1, "audio": 4}


@dataclass(frozen=True)
class Opener:
    """How a kind of media becomes features: as one of the starter's adapters sees them.

    Attributes:
        folder: where they are kept.
    """

    encoder: Encoder
    recipe: Recipe
    folder: Path
    modality: str

    @classmethod
    def of(cls, model: EPALM, modality: str, folder: Path) -> Opener:
        """The way of the adapter that makes captions of this kind of media."""
        name = model.adapter_for(modality, "caption")
        encoder = model.encoders[model.adapted[name].adapter.config.encoder.id]
        return cls(encoder, model.recipes[name], folder, modality)

    @torch.inference_mode()
    def features(
        self, name: str, ids: Sequence[str], media: Callable[[int], Any] | None = None
    ) -> list[Tensor]:
        """Every feature of the encoder, (N, D_j) in float16.

        Args:
            name: of the set; only for the files' names.
            ids: what the media are, paths usually; another list is encoded anew.
            media: the opened medium of a number; None opens the paths.
        """
        told = repr((self.recipe.to_dict(), list(self.encoder.widths), list(ids)))
        folder = self.folder / f"{name}-{hashlib.sha256(told.encode()).hexdigest()[:8]}"
        folder.mkdir(parents=True, exist_ok=True)
        parts = []
        for start in range(0, len(ids), PART):
            file = folder / f"{start:05d}.safetensors"
            if not file.exists():
                rows = range(start, min(start + PART, len(ids)))
                tensors = self.encode([self.open(i, ids, media) for i in rows])
                with atomic(file) as out:
                    out.write(save({str(j): feature for j, feature in enumerate(tensors)}))
                print(f"{name}: {rows.stop} of {len(ids)} are encoded", flush=True)
            stored = load_file(file)
            parts.append([stored[str(j)] for j in range(len(stored))])
        return [torch.cat(each) for each in zip(*parts, strict=True)]

    def open(self, number: int, ids: Sequence[str], media: Callable[[int], Any] | None) -> Callable[[], Any]:
        return lambda: media(number) if media else self.recipe.open(Path(ids[number]))

    def encode(self, media: Sequence[Callable[[], Any]]) -> list[Tensor]:
        """Media, opened a few at a time."""
        parts: list[list[Tensor]] = []
        for start in range(0, len(media), AT_ONCE[self.modality]):
            some = torch.stack(
                [self.recipe(each()) for each in media[start : start + AT_ONCE[self.modality]]]
            )
            parts.append([f.half() for f in self.encoder(some, range(len(self.encoder.widths)))])
        return [torch.cat(each) for each in zip(*parts, strict=True)]


def tokens(
    model: EPALM,
    adapter: str,
    features: Sequence[Tensor],
    rows: Sequence[int],
    kept: Collection[int] | None = None,
) -> list[Tensor]:
    """What an adapter reads of these rows of all features, (B, D_j) per token in float32.

    Args:
        kept: tokens that are of these rows; the others get the adapter's mean features. None: all are.
    """
    config = model.adapted[adapter].adapter.config.encoder
    places = model.encoders[config.id].widths.places(config.feature_layers)
    picked = torch.as_tensor(rows, dtype=torch.long)
    seen = [side_by_side([f[picked].float() for f in features], each) for each in places]
    if kept is None:
        return seen
    means = model.adapted[adapter].adapter.mean_features
    assert means is not None  # the starter's adapters have them
    return [
        own if j in kept else usual.to(own).expand_as(own)
        for j, (own, usual) in enumerate(zip(seen, means, strict=True))
    ]


@torch.inference_mode()
def say(
    model: EPALM,
    adapter: str,
    features: Sequence[Tensor],
    rows: Sequence[int],
    questions: Sequence[str | None],
    at_once: int = 50,
    kept: Collection[int] | None = None,
) -> list[str]:
    """What an adapter says of media, as a user's request gets it; texts of similar length together.

    Args:
        features: of all media; rows: which of them each question (None: a caption) is about.
        kept: as in `tokens`.
    """
    adapted, said = model.adapted[adapter], [""] * len(rows)
    inputs = [adapted.text.ids(adapted.text.input(question)) for question in questions]
    order = sorted(range(len(rows)), key=lambda i: len(inputs[i]))
    for start in range(0, len(order), at_once):
        part = order[start : start + at_once]
        seen = tokens(model, adapter, features, [rows[i] for i in part], kept)
        for i, text in zip(part, adapted.answers(seen, [inputs[i] for i in part]), strict=True):
            said[i] = text
        if len(order) > 500:
            print(f"{adapter}: {start + len(part)} of {len(order)} answers", flush=True)
    return said
