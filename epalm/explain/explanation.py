"""What an explanation of an answer holds."""

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
        modality: what the file is.
        question: None for a caption.
        text: the answer, as `EPALM.generate` gives it.
        words: (W) its words.
        log_probabilities: (W,) of each word, given all before it, in nats.
        layers: (n) the language model's layers that each perceptual token enters; empty for one that the
            range is too short for.
        feature_layers: (n) the encoder's layer, or layers, that each perceptual token comes from.
        contributions: (n, W) by how much the log-probability of a word drops when a perceptual token is
            replaced by the one of `replaced_by`, in nats; negative where the token spoke against the word.
        replaced_by: "mean" if the adapter stores the mean features of its training data, so that the token is
            the mean token of its layer; else "neutral", the token of an input without content (a picture or
            frames of the mean colour, an even spectrogram).
        pictures: (F) what the encoder was given: the picture, the frames, or the spectrogram.
        relevance: (F, h, w) where the encoder looked for this answer: gradient of the answer's
            log-probability times the last feature map, summed over channels. Row 0 is on top of the picture;
            of a spectrogram, the highest pitch. Positive values speak for the answer.
        attention: (F, h, w) share of the attention of [CLS] in the encoder's last block, averaged over heads;
            None for encoders without [CLS].
        candidates: what a beam search finds, best first.
        blind: the answer of the same language model and soft prompt without the file.
    """

    modality: Literal["image", "video", "audio"]
    question: str | None
    text: str
    words: tuple[str, ...]
    log_probabilities: np.ndarray
    layers: tuple[tuple[int, ...], ...]
    feature_layers: tuple[FeatureLayer, ...]
    contributions: np.ndarray
    replaced_by: Literal["mean", "neutral"]
    pictures: tuple[Image.Image, ...]
    relevance: np.ndarray
    attention: np.ndarray | None
    candidates: tuple[Candidate, ...]
    blind: str

    def peak(self) -> tuple[int, float, float]:
        """Where the map is largest: frame, and place from the left and from the top in 0…1."""
        frame, row, column = np.unravel_index(self.relevance.argmax(), self.relevance.shape)
        height, width = self.relevance.shape[1:]
        return int(frame), (int(column) + 0.5) / width, (int(row) + 0.5) / height
