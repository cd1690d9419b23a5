"""The page's words: one entry for each modality, and what a model is and is not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from epalm.demo.models import Offer


@dataclass(frozen=True)
class Tab:
    """The words for a modality, its example files, first questions, and a limit that an example shows."""

    name: str
    noun: str
    pitch: str
    take: str
    examples: str
    credits: str
    questions: tuple[str, ...]
    limit: str  # an example that comes out wrong, and why


TABS = {
    "image": Tab(
        name="Image",
        noun="picture",
        pitch="looks at your pictures",
        take="upload one, take one or choose an example",
        examples="*.jpg",
        credits="Cat: Stéfan van der Walt, CC0 · coffee: Rachel Michetti, CC0 · lion: Gradio, Apache 2.0 · "
        "person: NASA, public domain",
        questions=("what is this?", "is this a cat?", "what is happening?"),
        limit="The person shows a limit: the starter's encoder tells a thousand kinds of things apart, and "
        "people are none of them.",
    ),
    "video": Tab(
        name="Video",
        noun="video",
        pitch="watches your videos",
        take="upload one, record one or choose an example",
        examples="*.mp4",
        credits="Cat: a photo by Stéfan van der Walt, CC0 · lion and earth: Gradio, Apache 2.0",
        questions=("what is this?", "what happens?", "which way does it move?"),
        limit="The earth shows a limit: the starter sees that something turns, but its encoder was never "
        "shown a planet. Cat and lion are photos that the camera moves over, as in most of its training.",
    ),
    "audio": Tab(
        name="Audio",
        noun="sound",
        pitch="listens to your sounds",
        take="upload one, record one or choose an example",
        examples="*.flac",
        credits="Drums: Snapper4298, CC0 · saxophone: Gradio, Apache 2.0 · voice: Marco "
        "Menardi and Paola Dal Zot, [voip.ammdomus.it](http://www.voip.ammdomus.it), CC BY-SA 3.0",
        questions=("what do you hear?", "which instrument is this?", "who is speaking?"),
        limit="The saxophone shows a limit: the starter often takes an instrument for another of its kind.",
    ),
}


def listed(words: Sequence[str]) -> str:
    """Words as in "a, b and c"."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def pitch(modalities: Sequence[str]) -> str:
    """The page's first lines."""
    does = listed([TABS[modality].pitch for modality in modalities])
    return (
        f"# eP-ALM\nA language model that was only ever trained on text {does}, "
        "through one linear connection and one soft prompt."
    )


def card(offer: Offer) -> str:
    """What is known of a model, as HTML."""
    backbones = [config.lm.id for config in offer.configs.values()][:1]
    backbones += [config.encoder.id for config in offer.configs.values()]
    names = list(dict.fromkeys(backbone.split("/")[-1] for backbone in backbones))
    learned = list(
        dict.fromkeys(config.description for config in offer.configs.values() if config.description)
    )
    facts = {
        "Model": f"{listed(names)}, frozen; {offer.trained / 1e6:.1f} million numbers trained",
        "Trained on": "; ".join(learned) or offer.title,
        "How often right": offer.right or "not measured",
        "Download": offer.download or "none",
        "Licence": offer.licence,
    }
    rows = "".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in facts.items() if value)
    return f"<dl class='card'>{rows}</dl>"


def meter(confidence: float | None) -> str:
    """How sure the model is of its answer, from guessing to sure, as HTML; nothing if it was not measured."""
    if confidence is None:
        return ""
    percent = round(100 * confidence)
    values = f"aria-valuenow='{percent}' aria-valuemin='0' aria-valuemax='100'"
    says = f"Of answers as probable as this one, {percent} % were right about files that the model never saw."
    return (
        f"<div class='meter'><span>guessing</span><div role='meter' aria-label='How sure' {values}>"
        f"<i style='width:{percent}%'></i></div><span>sure</span><p>{says}</p></div>"
    )


def about(nouns: Sequence[str]) -> str:
    """What the models are not."""
    speech = ", and it does not understand speech" if "sound" in nouns else ""
    things = listed([f"{noun}s" for noun in nouns])
    return (
        f"**What it is not:** reliable. It names the main thing in some {things} "
        f"and is often wrong; it does not read text or recognise people{speech}. "
        "Do not rely on it where a mistake matters."
    )


def loading(says: str) -> str:
    """A bar for a download or a loading model, as HTML; it fills where the sentence names a percentage."""
    words = says.split()
    percent = next(
        (before for before, after in zip(words, words[1:], strict=False) if after.startswith("%")), ""
    )
    now = f" value='{int(float(percent))}'" if percent.replace(".", "", 1).isdigit() else ""
    return f"<label class='loading'>{escape(says)}<progress max='100'{now}></progress></label>"


def failed(sentence: str) -> str:
    """Why a model could not be loaded, as HTML."""
    return f"<p class='failed' role='alert'>{escape(sentence)}</p>"
