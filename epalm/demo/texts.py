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
        limit="The last one shows a limit: the starter's encoder tells a thousand kinds of things apart, and "
        "people are none of them.",
    ),
    "video": Tab(
        name="Video",
        noun="video",
        pitch="watches your videos",
        take="upload one, record one or choose an example",
        examples="*.mp4",
        credits="Cat (Stéfan van der Walt, CC0) and lion (Gradio, Apache 2.0) are photos that a camera moves "
        "over · earth: Gradio, Apache 2.0",
        questions=("what is this?", "what happens?", "which way does it move?"),
        limit="The earth shows a limit: the starter sees that something turns, but none of the thousand "
        "kinds of things that its encoder tells apart is a planet.",
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
        limit="The saxophone shows a limit: instruments of one kind are often mixed up.",
    ),
}


def listed(words: Sequence[str]) -> str:
    """Words as in "a, b and c"."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def pitch(modalities: Sequence[str]) -> str:
    """The page's first lines."""
    does = listed([TABS[modality].pitch for modality in modalities])
    return f"# eP-ALM\nA language model that was trained on text alone {does}."


HOW = (
    "Both networks are **frozen**: an encoder that perceives, and a language model that was trained on text "
    "alone. What the encoder makes of a file, layer by layer, goes through **one linear connection** and "
    "becomes a single row in front of the text, which the layers of the language model read. That connection "
    "and a soft prompt are all that is trained. [The paper](https://arxiv.org/abs/2303.11403)"
)


def card(offer: Offer) -> str:
    """What is known of a model, as HTML."""
    backbones = [config.lm.id for config in offer.configs.values()][:1]
    backbones += [config.encoder.id for config in offer.configs.values()]
    names = list(dict.fromkeys(backbone.split("/")[-1] for backbone in backbones))
    facts = {
        "Model": f"{listed(names)}, frozen; {offer.trained / 1e6:.1f} million numbers trained",
        "Download": offer.download,
        "Licence": offer.licence,
    }
    rows = "".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in facts.items() if value)
    tasks = "".join(
        "<tr>"
        + "".join(f"<{tag}>{escape(text)}</{tag.split()[0]}>" for tag, text in zip(CELLS, row, strict=True))
        + "</tr>"
        for row in offer.measured()
    )
    head = "".join(f"<th scope='col'>{title}</th>" for title in ("", "Learned from", "How often right"))
    return (
        f"<div class='card'><dl>{rows}</dl>"
        f"<div class='wide' tabindex='0' role='region' aria-label='What it learned from'>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{tasks}</tbody></table></div></div>"
    )


CELLS = ("th scope='row'", "td", "td")
SURE = (
    (0.8, "Sure"),
    (0.55, "Rather sure"),
    (0.3, "Unsure"),
    (0.0, "Guessing"),
)  # from a share of right answers on


def meter(confidence: float | None, noun: str) -> str:
    """How sure the model is of an answer, from guessing to sure, as HTML, or that it is not known."""
    if confidence is None:
        return f"<p class='meter'>How sure it is of answers about {noun}s has not been measured.</p>"
    percent = round(100 * confidence)
    word = next(word for least, word in SURE if confidence >= least)
    values = f"aria-valuenow='{percent}' aria-valuemin='0' aria-valuemax='100' aria-valuetext='{word}'"
    return (
        f"<div class='meter'><span>guessing</span><div role='meter' aria-label='How sure' {values}>"
        f"<i style='width:{percent}%'></i></div><span>sure</span><p><b>{word}.</b> Of answers as "
        f"probable as this one, {percent} % were right, on files that it never saw.</p></div>"
    )


def about(modalities: Sequence[str]) -> str:
    """What the models are not, and whose the examples are."""
    nouns = [TABS[modality].noun for modality in modalities]
    credits = " · ".join(TABS[modality].credits for modality in modalities)
    speech = ", and it does not understand speech" if "sound" in nouns else ""
    things = listed([f"{noun}s" for noun in nouns])
    return (
        f"**What it is not:** reliable. It names the main thing in some {things} "
        f"and is often wrong; it does not read text or recognise people{speech}. "
        f"Do not rely on it where a mistake matters.\n\n**The examples:** {credits}"
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
