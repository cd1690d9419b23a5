"""Answer about a file and explain the answer."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from epalm.adapted import AdaptedLM
from epalm.adapter import Adapter
from epalm.decoding import with_overrides
from epalm.encoders.base import Encoder
from epalm.encoders.widths import told
from epalm.explain.contributions import contributions, layers_of_tokens, words_of
from epalm.explain.explanation import Candidate, Explanation
from epalm.explain.where import Looked, look
from epalm.media.audio import Sound
from epalm.media.previews import FRAME, picture
from epalm.media.recipes import AudioRecipe, ImageRecipe, WhisperRecipe
from epalm.media.video import Clip
from epalm.scoring import token_log_probabilities, up_to_end

STEPS = 4  # of the integrated gradients
LONGEST = 640  # longer side of a shown picture, in pixels


def explain(
    adapted: AdaptedLM,
    encoder: Encoder,
    recipe: Any,
    opened: Any,
    question: str | None,
    beams: int | None = None,
    max_new_tokens: int | None = None,
    candidates: int = 3,
) -> Explanation:
    """Answer as `EPALM.generate` does, and explain where the answer comes from.

    Args:
        recipe, opened: the adapter's preprocessing, and the file as opened by it.
        beams, max_new_tokens: override the adapter's defaults.
        candidates: how many texts of a beam search to show; 0 skips the search.
    Raises:
        EPALMError: the question is invalid, or the encoder's last feature map is unknown.
    """
    lm, adapter, text = adapted.lm, adapted.adapter, adapted.text
    config = adapter.config
    media = recipe(opened)[None]
    given_ids = text.ids(text.input(question))
    ids = torch.tensor([given_ids], device=lm.device)
    given = torch.ones_like(ids)
    prompt = adapted.prompt_rows(1)
    layers, names = config.encoder.feature_layers, encoder.names
    with torch.no_grad():
        features = [feature.to(lm.device) for feature in encoder(media, layers)]
        tokens = adapter.tokens(features)
        means, replaced_by = mean_tokens(adapter, encoder, media)

    def generated(seen: list[Tensor] | None, beams: int | None, returned: int = 1) -> list[list[int]]:
        """Ids of the new text up to the end token; if several, best first."""
        settings = with_overrides(config.generation, beams, max_new_tokens)
        options: dict[str, Any] = {} if returned == 1 else {"num_return_sequences": returned}
        out = adapted.generate(seen, [given_ids], settings, **options)
        return [up_to_end(row, text.stops) for row in out.tolist()]

    def log_probabilities(answer: Tensor, tokens: Tensor) -> Tensor:
        """(A,) log-probabilities of one answer (1, A)."""
        every = torch.ones_like(answer)
        rows = token_log_probabilities(lm, ids, given, answer, every, prompt, tokens, config.injection)
        return rows[0]

    [answer_ids] = generated(features, beams)
    answer = torch.tensor([answer_ids], device=lm.device)
    words = words_of(text.tokenizer, answer_ids)
    whole, drops = contributions(lm, ids, answer, prompt, tokens, means, config.injection)
    members = torch.zeros(len(answer_ids), len(words), dtype=whole.dtype, device=whole.device)
    for w, (_, positions) in enumerate(words):
        members[positions, w] = 1

    def of_words(features: list[Tensor]) -> Tensor:
        changed = adapter.tokens(features).to(lm.device)
        return (log_probabilities(answer, changed) @ members).sum()

    looked = look(encoder, media, layers, of_words, STEPS)
    modality = config.task.modality
    pictures, relevance, attention = shown(modality, recipe, opened, looked)
    found: dict[str, Candidate] = {}
    for width in (candidates, 3 * candidates):  # beams may end in the same text, spelled in other tokens
        if len(found) >= candidates:
            break
        for row in generated(features, max(width, 2), width):
            with torch.no_grad():
                score = log_probabilities(torch.tensor([row], device=lm.device), tokens).mean().item()
            candidate = Candidate(text.answer(row), score)
            found.setdefault(candidate.text, candidate)
    return Explanation(
        modality=modality,
        question=question,
        text=text.answer(answer_ids),
        words=tuple(word for word, _ in words),
        log_probabilities=(whole @ members).cpu().numpy(),
        layers=tuple(layers_of_tokens(config.injection, lm.num_layers, config.num_tokens)),
        feature_layers=tuple(layers),
        sources=tuple(told([names[place] for place in places]) for places in encoder.widths.places(layers)),
        contributions=(drops @ members).cpu().numpy(),
        replaced_by=replaced_by,
        pictures=pictures,
        relevance=relevance,
        attention=attention,
        candidates=tuple(found.values())[:candidates],
        blind=text.answer(generated(None, beams)[0]),
    )


def mean_tokens(
    adapter: Adapter, encoder: Encoder, media: Tensor
) -> tuple[Tensor, Literal["mean", "neutral"]]:
    """(1, n, H) tokens to compare with: those of the mean features, or those of an input without content.

    A connector is linear, so the mean feature's token is the mean token. If the adapter does not store its
    training data's mean features, an input of zeros replaces them: since recipes subtract a mean, that is a
    picture of the mean colour or a flat spectrogram.
    """
    device = adapter.connector[0].weight.device
    means = adapter.mean_features
    if means is not None:
        return adapter.tokens([mean[None] for mean in means]), "mean"
    features = encoder(torch.zeros_like(media), adapter.config.encoder.feature_layers)
    return adapter.tokens([feature.to(device) for feature in features]), "neutral"


def shown(
    modality: str, recipe: Any, opened: Any, looked: Looked
) -> tuple[tuple[Image.Image, ...], np.ndarray, np.ndarray | None]:
    """The pictures to draw on, and the maps in the same orientation."""
    relevance = looked.relevance.numpy()
    attention = None if looked.attention is None else looked.attention.numpy()
    if modality == "image":
        return (_picture(recipe, opened),), relevance, attention
    if modality == "video":
        return _frames(opened), relevance, attention
    return _spectrogram(recipe, opened, relevance, attention)


def _picture(recipe: ImageRecipe, image: Image.Image) -> Image.Image:
    """What the encoder saw. A picture that was only squashed keeps its shape: the map fits it as well."""
    whole = recipe.resize == "squash" and recipe.crop_pct == 1
    picture = image.copy() if whole else recipe.fit(image)
    picture.thumbnail((LONGEST, LONGEST))
    return picture


def _frames(clip: Clip) -> tuple[Image.Image, ...]:
    frames = []
    for pixels in clip.frames:
        frame = Image.fromarray(pixels)
        frame.thumbnail((FRAME, FRAME))
        frames.append(frame)
    return tuple(frames)


def _spectrogram(
    recipe: AudioRecipe | WhisperRecipe, sound: Sound, relevance: np.ndarray, attention: np.ndarray | None
) -> tuple[tuple[Image.Image, ...], np.ndarray, np.ndarray | None]:
    """The spectrogram without padding, and the matching part of the maps, highest pitch on top."""
    spectrogram = recipe.spectrogram(sound).numpy()  # (time, mel)
    seconds = min(sound.waveform.shape[1] / sound.rate, recipe.seconds)
    total = recipe.frames if isinstance(recipe, AudioRecipe) else 100 * recipe.seconds

    def heard(maps: np.ndarray) -> np.ndarray:
        columns = max(1, math.ceil(maps.shape[2] * len(spectrogram) / total))
        return np.ascontiguousarray(maps[:, ::-1, :columns])

    return (
        (picture(spectrogram, seconds),),
        heard(relevance),
        None if attention is None else heard(attention),
    )
