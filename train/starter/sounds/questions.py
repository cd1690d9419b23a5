"""What is said of sounds: captions of one or two of them, questions, and false answers that are hard.

A sound is a row of sounds.jsonl, see `collect.Sound`.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from train.starter.examples import Example, category_phrase
from train.starter.sounds.public import section, table
from train.starter.words import with_article

Row = dict[str, Any]  # of sounds.jsonl
Key = tuple[str | None, ...]  # nothing, a source, or a source and a category

WHAT = (
    "what is this?",
    "what do you hear?",
    "what can you hear?",
    "what is making this sound?",
    "what sound is this?",
    "what is it?",
    "what can be heard?",
    "what is happening?",
)
KIND = ("what kind of sound is this?", "what type of sound is it?", "what category does this belong to?")
INSTRUMENT = ("which instrument is this?", "which instrument is playing?", "what instrument do you hear?")
FAMILY = ("what kind of instrument is it?", "what family does the instrument belong to?")
WHO = ("who is speaking?", "is a man or a woman speaking?", "whose voice is it?")
FIRST = ("what comes first?", "what do you hear at the beginning?", "what is the first sound?")
LAST = ("what comes last?", "what do you hear at the end?", "what is the last sound?")
HOW_MANY = ("how many sounds are there?", "how many different sounds do you hear?")
IS_IT = (
    "is this {}?",
    "is it {}?",
    "do you hear {}?",
    "can you hear {}?",
    "is there {}?",
    "is this the sound of {}?",
)
IS_THERE = ("do you hear {}?", "can you hear {}?", "is there {}?")
IS_KIND = {
    "animal": ("is this an animal?", "do you hear an animal?"),
    "instrument": ("is this a musical instrument?", "do you hear an instrument?"),
    "voice": ("is someone speaking?", "do you hear a voice?"),
    "vehicle": ("is this a vehicle?", "do you hear a vehicle?"),
    "machine": ("is this a machine?", "do you hear a machine?"),
}
CATEGORY_PHRASES = {"instrument": "a musical instrument", "music": "music", "nature": "nature",
                    "people": "people",
                    "noise": "a noise", "household": "a household item"}  # fmt: skip

PLAIN = 0.5  # how often one sound's caption is the plain one
YES_NO = 0.5  # share of the questions
FINITE = {"is", "are", "barks", "cries", "speaks", "sneezes", "crows"}
ARTICLES = {"a", "an", "the"}
COMPOUNDS = {"sewing", "washing", "level"}  # "a washing machine": nobody washes

FURTHER = table("further", "; ")
CONFUSED = table("confused", ", ")
ALIKE = [frozenset(line.split(", ")) for line in section("alike")]


def captions_of(row: Row) -> list[str]:
    """Every caption that is true, the plain one first."""
    return [row["caption"], *row.get("captions", ()), *FURTHER.get(row["caption"], ())]


def caption(row: Row, rng: random.Random) -> str:
    """One of a sound's captions."""
    return row["caption"] if rng.random() < PLAIN else rng.choice(captions_of(row))


def thing(row: Row, rng: random.Random) -> str:
    """A caption that can stand in a question: "is this …?"."""
    fit = [c for c in captions_of(row) if not FINITE & set(c.split()) and "," not in c]
    return rng.choice(fit or [row["caption"]])


def clause(phrase: str) -> str | None:
    """ "a dog barking" -> "a dog is barking"; None where nobody does anything."""
    words = phrase.split()
    if "," in phrase or "of" in words:
        return None
    if {"is", "are"} & set(words):
        return phrase
    for i, word in enumerate(words):
        if word.endswith("ing") and word not in COMPOUNDS and i and words[i - 1] not in ARTICLES:
            doer = words[i - 1]
            many = doer in ("children", "people", "timpani") or (doer.endswith("s") and doer != "bus")
            return " ".join([*words[:i], "are" if many else "is", *words[i:]])
    return None


def together(first: Row, second: Row, rng: random.Random) -> str:
    """A caption of two sounds at the same time."""
    one, other = rng.choice(captions_of(first)), rng.choice(captions_of(second))
    forms = [f"{one} and {other}", f"{other} and {one}", f"{one} with {other} in the background"]
    for said, done in ((one, clause(other)), (other, clause(one))):
        if done is not None and clause(said) != said:
            forms += [f"{said} while {done}"] * 2
    return rng.choice(forms)


def in_turn(first: Row, second: Row, rng: random.Random) -> str:
    """A caption of two sounds one after the other."""
    one, other = caption(first, rng), caption(second, rng)
    return rng.choice((f"{one}, then {other}", f"{one}, then {other}", f"{one} followed by {other}"))


def alike(first: Row, second: Row) -> bool:
    """True if one may be taken for the other, or its words would be right about it."""
    labels = {first["label"], second["label"]}
    if any(labels <= {row["label"], *row.get("words", ())} for row in (first, second)):
        return True
    sources = {first.get("source"), second.get("source")}
    told_apart = len(sources) == 1 and sources <= {"esc10", "urbansound8k"}  # classes of one set
    return not told_apart and any(labels <= group for group in ALIKE)


class FalseAnswers:
    """Names of sounds that are not to be heard: of what is easily confused, of the same kind, of anything.

    Each label is drawn equally often, however many sounds it has: questions alone then give no answer away.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        self.by_label: dict[tuple[str | None, ...], dict[str, list[Row]]] = defaultdict(
            lambda: defaultdict(list)
        )
        for row in rows:
            for key in ((), (row.get("source"),), (row.get("source"), row["category"])):
                self.by_label[key][row["label"]].append(row)

    def draw(self, heard: Sequence[Row], rng: random.Random) -> str | None:
        """What is asked for in vain; None if everything might be there."""
        row = rng.choice(heard)
        for _ in range(60):
            where = rng.random()
            wanted = [label for label in CONFUSED.get(row["label"], ()) if where < 0.25]
            source = row.get("source")
            key = (source, row["category"]) if where < 0.6 else (source,)
            labels = self.by_label[key if where < 0.85 else ()]
            if wanted:
                labels = {label: found for label in wanted if (found := self.by_label[()].get(label))}
            if not labels:
                continue
            other = rng.choice(labels[rng.choice(list(labels))])
            if not any(alike(other, each) for each in heard):
                return thing(other, rng)
        return None


def yes_or_no(heard: Sequence[Row], others: FalseAnswers, rng: random.Random) -> Example | None:
    """A question that is answered by yes as often as by no; None if there is no false answer."""
    forms = IS_IT if len(heard) == 1 else IS_THERE
    if len(heard) == 1 and rng.random() < 0.15:
        kind = heard[0]["category"]
        asked = rng.choice([k for k in IS_KIND if k != kind])
        if kind in IS_KIND:
            return (
                (rng.choice(IS_KIND[kind]), "yes")
                if rng.random() < 0.5
                else (rng.choice(IS_KIND[asked]), "no")
            )
    false = others.draw(heard, rng)
    if false is None:
        return None
    if rng.random() < 0.5:
        return rng.choice(forms).format(thing(rng.choice(heard), rng)), "yes"
    return rng.choice(forms).format(false), "no"


def about_one(row: Row, rng: random.Random) -> Example:
    """Half ask what it is, the rest for what kind of thing, as far as there is more to tell."""
    if rng.random() < 0.5:
        return rng.choice(WHAT), row["caption"]
    if row["category"] == "instrument" and rng.random() < 0.7:
        if row["family"] and rng.random() < 0.4:
            return rng.choice(FAMILY), with_article(row["family"])
        return rng.choice(INSTRUMENT), row["caption"]
    if row["category"] == "voice" and row["label"] in ("man", "woman") and rng.random() < 0.6:
        return rng.choice(WHO), with_article(row["label"])
    return rng.choice(KIND), kind_phrase(row["category"])


def about_two(first: Row, second: Row, mixed: bool, rng: random.Random) -> Example:
    """What there is; of sounds one after the other, mostly which comes first or last."""
    draw = rng.random()
    if not mixed:
        if draw < 0.4:
            return rng.choice(FIRST), first["caption"]
        return (
            (rng.choice(LAST), second["caption"]) if draw < 0.8 else (rng.choice(WHAT), both(first, second))
        )
    if draw < 0.3:
        return rng.choice(HOW_MANY), "two"
    speaking = [row["label"] for row in (first, second) if row["label"] in ("man", "woman")]
    if len(speaking) == 1 and draw < 0.5:
        return rng.choice(WHO), with_article(speaking[0])
    return rng.choice(WHAT), together(first, second, rng)


def both(first: Row, second: Row) -> str:
    """The plain caption of two sounds one after the other."""
    return f"{first['caption']}, then {second['caption']}"


def kind_phrase(category: str) -> str:
    """ "instrument" -> "a musical instrument", "animal" -> "an animal"."""
    return CATEGORY_PHRASES.get(category) or category_phrase(category)
