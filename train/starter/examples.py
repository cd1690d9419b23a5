"""What the starter is trained to say: captions, questions and answers about one named thing per picture."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from epalm.config import TaskConfig

CAPTION = TaskConfig("caption", "image", input="The picture shows", output=" {text}.")
QA = TaskConfig("qa", "image", input="Question: {question}\nAnswer:", output=" {text}")

CATEGORY_PHRASES = {  # where "a" or "an" before the category's name would be no English
    "clothing": "clothing",
    "drink": "a drink",
    "food": "food",
    "furniture": "furniture",
    "household": "a household item",
    "nature": "a part of nature",
    "sport": "sports equipment",
    "stationery": "stationery",
}
WHAT = (
    "what is this?",
    "what is it?",
    "what is in the picture?",
    "what is in this image?",
    "what does the picture show?",
    "what can you see?",
    "what do you see?",
    "what is shown here?",
    "name the thing in the picture.",
)
WHICH = ("what {category} is this?", "which {category} is it?", "what kind of {category} is this?")
IS_IT = (
    "is this {thing}?",
    "is it {thing}?",
    "does the picture show {thing}?",
    "is there {thing} in the picture?",
)
KIND = ("what kind of thing is this?", "what category does this belong to?", "what type of thing is it?")

Example = tuple[str | None, str]  # question (None: a caption) and answer


@dataclass(frozen=True)
class Thing:
    """What a picture shows.

    Attributes:
        names: phrases with article, the most exact first: "a tabby cat", "a cat".
        words: bare names that count as right, used to avoid wrong negatives.
        category: "animal", "food", … or None.
    """

    names: tuple[str, ...]
    words: frozenset[str]
    category: str | None

    def name(self, rng: random.Random) -> str:
        """One of the names."""
        return rng.choice(self.names)


def category_phrase(category: str) -> str:
    """ "animal" -> "an animal", "household" -> "a household item"."""
    article = "an" if category[0] in "aeiou" else "a"
    return CATEGORY_PHRASES.get(category, f"{article} {category}")


def question_about(thing: Thing, others: Sequence[Thing], rng: random.Random) -> tuple[str, str]:
    """A question about a picture of `thing` and its answer.

    Half ask for the name, a third can be answered by yes or no (equally often; half of the wrong things are
    of the same category, so that the category alone is no answer), the rest ask for the category.
    """
    draw = rng.random()
    if draw < 0.5 or (thing.category is None and draw >= 0.87):
        if thing.category in CATEGORY_PHRASES or thing.category is None:
            return rng.choice(WHAT), thing.name(rng)
        if rng.random() < 0.3:
            return rng.choice(WHICH).format(category=thing.category), thing.name(rng)
        return rng.choice(WHAT), thing.name(rng)
    if draw < 0.77:
        if rng.random() < 0.5:
            return rng.choice(IS_IT).format(thing=rng.choice(thing.names)), "yes"
        wrong = _other(thing, others, rng, same_category=rng.random() < 0.5)
        return rng.choice(IS_IT).format(thing=rng.choice(wrong.names)), "no"
    if draw < 0.87 and thing.category is not None:
        category, answer = thing.category, "yes"
        if rng.random() < 0.5:
            category, answer = _other(thing, others, rng, same_category=False).category or "symbol", "no"
            if category == thing.category:
                answer = "yes"
        return rng.choice(IS_IT).format(thing=category_phrase(category)), answer
    if thing.category is None:
        return rng.choice(WHAT), thing.name(rng)
    return rng.choice(KIND), category_phrase(thing.category)


def _other(thing: Thing, others: Sequence[Thing], rng: random.Random, same_category: bool) -> Thing:
    """A thing that is surely not `thing`."""
    for _ in range(50):
        other = rng.choice(others)
        if other.words & thing.words or any(w in o or o in w for w in thing.words for o in other.words):
            continue
        if (other.category == thing.category) == same_category:
            return other
    return other
