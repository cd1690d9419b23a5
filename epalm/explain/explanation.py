"""The explanation of an answer, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from epalm.config import FeatureLayer


@dataclass(frozen=True)
class Candidate:
    """Another text that the beam search found."""

    text: str
    log_probability: float  # mean per token, end token included, in nats


@dataclass(frozen=True, eq=False)
class Explanation:
    """Why a model gave an answer about a file. W words, n perceptual tokens, F frames.

    Attributes:
        modality: the kind of file.
        question: None for a caption.
        text: the answer, as returned by `EPALM.generate`.
        words: (W) the words of the answer.
        log_probabilities: (W,) log-probability of each word given the text before it, in nats.
        layers: (n) the language-model layers that each perceptual token enters; empty if the layer range is
            too short for it.
        feature_layers: (n) the encoder layer or layers that each perceptual token comes from.
        sources: (n) the encoder's own names of them.
        contributions: (n, W) how much a word's log-probability drops, in nats, when a perceptual token is
            replaced as `replaced_by` says; negative where the token counts against the word.
        replaced_by: "mean": by the mean token of its layer, if the adapter stores the mean features of its
            training data. "neutral": otherwise, by the token of an input without content (a picture or
            frames of the mean colour, a flat spectrogram).
        pictures: (F) the encoder's input: the picture, the frames, or the spectrogram.
        relevance: (F, h, w) where the encoder looked for this answer: gradient of the answer's
            log-probability times the last feature map, summed over channels. Row 0 is the top of the picture,
            or the highest pitch of a spectrogram. Positive values support the answer.
        attention: (F, h, w) attention of [CLS] in the encoder's last block, averaged over heads; None for
            encoders without [CLS].
        candidates: the texts that a beam search finds, best first.
        blind: the answer of the same language model and soft prompt without the file.
    """

    modality: Literal["image", "video", "audio"]
    question: str | None
    text: str
    words: tuple[str, ...]
    log_probabilities: np.ndarray
    layers: tuple[tuple[int, ...], ...]
    feature_layers: tuple[FeatureLayer, ...]
    sources: tuple[str, ...]
    contributions: np.ndarray
    replaced_by: Literal["mean", "neutral"]
    pictures: tuple[Image.Image, ...]
    relevance: np.ndarray
    attention: np.ndarray | None
    candidates: tuple[Candidate, ...]
    blind: str

    def peak(self) -> tuple[int, float, float]:
        """Where the map is largest: frame, and position from the left and from the top, in 0…1."""
        frame, row, column = np.unravel_index(self.relevance.argmax(), self.relevance.shape)
        height, width = self.relevance.shape[1:]
        return int(frame), (int(column) + 0.5) / width, (int(row) + 0.5) / height
