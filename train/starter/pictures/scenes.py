"""Questions about a scene, made from what people wrote about it: who does what, how many, which colour."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence

from train.starter.examples import WHAT, Example
from train.starter.words import with_article

HAPPENS = (
    "what is happening?",
    "what happens here?",
    "describe the picture.",
    "what is going on?",
    "who is doing what?",
)
IS_THERE = ("is there {} in the picture?", "can you see {}?", "does the picture show {}?")
COLOURS = "red|green|blue|yellow|orange|purple|pink|brown|black|white|gray|grey"
MANY = r"(two|three|four|five|six) (?:\w+ )?(\w+s|men|women|children|people)\b"
DOES = re.compile(r"(.{3,45}?)(?: is| are)? (\w+ing)\b(.*)")  # somebody, does, what
NO_DEED = {"wearing", "during", "something", "building", "clothing", "evening", "morning", "ring", "string"}
PLURAL = re.compile(r"the (two|three|four|people|men|women|children|boys|girls|kids|dogs|several|group of)\b")
NOUN = re.compile(r"\b(?:a|an|the|two|one)\s(?:\w+\s)?(\w+)")
EVERYWHERE = {
    "man", "woman", "boy", "girl", "person", "people", "group", "front", "other", "side", "top", "air",
    "young", "large", "small", "little", "big", "brown", "white", "black", "red", "blue", "green", "yellow",
    "his", "her", "one", "two", "three", "while", "with", "and",
}  # fmt: skip
ASKED_FOR = 180  # nouns
SEEN = 25  # photos that a noun must be said of


def words_of(captions: Iterable[str]) -> set[str]:
    return {word for caption in captions for word in re.findall(r"[a-z]+", caption.lower())}


def common_nouns(scenes: Iterable[Sequence[str]]) -> list[str]:
    """What questions ask for: the most frequent nouns that are not in most of the photos."""
    counts = Counter(
        noun for captions in scenes for noun in {n for text in captions for n in NOUN.findall(text.lower())}
    )
    fit = [n for n, c in counts.most_common() if c >= SEEN and n not in EVERYWHERE and not n.endswith("ing")]
    return [noun for noun in fit if len(noun) > 2][:ASKED_FOR]


def about_scene(captions: Sequence[str], nouns: Sequence[str], rng: random.Random) -> Example:
    """A question about a photo with these human captions, and its answer.

    Args:
        nouns: that are asked for, see `common_nouns`; a third of the questions is answered by yes or no.
    """
    text, draw = rng.choice(captions), rng.random()
    deed = DOES.fullmatch(text)
    if deed and deed[2] in NO_DEED:
        deed = None
    if draw < 0.3 and (asked := presence(captions, nouns, rng)):
        return asked
    if draw < 0.45 and (match := re.search(rf"\b({COLOURS}) (\w+)", text)):
        thing = match[2]
        if thing not in ("and", "or") and not re.fullmatch(COLOURS, thing):
            return f"what {rng.choice(('colour', 'color'))} is the {thing}?", match[1]
    if draw < 0.55 and (match := re.search(rf"\b{MANY}", text)):
        return f"how many {match[2]} are there?", match[1]
    if deed and draw < 0.82:
        who, what = deed[1], re.split(r",| while | as ", deed[2] + deed[3])[0]
        if draw >= 0.7:
            return f"who is {what}?", who
        subject = "the " + re.sub(r"^(a|an|the) ", "", who)
        if len(subject.split()) < 8:
            return f"what {'are' if PLURAL.match(subject) else 'is'} {subject} doing?", what
    if draw < 0.9:
        return rng.choice(HAPPENS), text
    return rng.choice(WHAT), deed[1] if deed else text


def presence(captions: Sequence[str], nouns: Sequence[str], rng: random.Random) -> Example | None:
    """Whether something is there, yes as often as no; None if nothing fits."""
    there = words_of(captions)
    seen = [noun for noun in nouns if noun in there]
    absent = [noun for noun in nouns if not {noun, noun + "s", noun.rstrip("s")} & there]
    if not seen or not absent:
        return None
    answer = rng.choice(("yes", "no"))
    noun = rng.choice(seen if answer == "yes" else absent)
    return rng.choice(IS_THERE).format(with_article(noun)), answer
