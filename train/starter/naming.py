"""Whether a text names a thing."""

from __future__ import annotations

import re
from collections.abc import Sequence

from train.starter.pictures.questions import ClassThing


def named(text: str, thing: ClassThing) -> bool:
    """True if the text has the name of a class."""
    return thing.noun.lower() in text.lower()


def named_or_kind(text: str, thing: ClassThing) -> bool:
    """True if it has the name, or the kind as a word: "dog" for a beagle."""
    kind = re.escape(thing.kind.lower())
    return named(text, thing) or re.search(rf"\b{kind}\b", text.lower()) is not None


def names(text: str, words: Sequence[str]) -> bool:
    """True if one of `words` stands in `text` as a whole word, singular or plural."""
    return any(re.search(rf"\b{re.escape(word)}(s|es)?\b", text.lower()) for word in words)
