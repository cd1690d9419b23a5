"""What is asked about photos, rooms and composed pictures: what, which kind, how many, where, yes or no."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train.starter.examples import CATEGORY_PHRASES, IS_IT, KIND, WHAT, Example, Thing
from train.starter.words import is_plural, with_article

OF_KIND = ("what kind of {} is this?", "which {} is it?", "what {} is this?")
NUMBERS = ("no", "one", "two", "three", "four", "five", "six")
HOW_MANY = ("how many {} are there?", "how many things are there?", "how many {} can you see?")
SIDES = {"across": ("left", "right"), "down": ("top", "bottom")}
RELATIONS = {"across": ("to the left of", "to the right of"), "down": ("above", "below")}
AT = {"across": "on", "down": "at"}
IRREGULAR = {
    "child": "children", "deer": "deer", "fish": "fish", "foot": "feet", "goose": "geese", "knife": "knives",
    "leaf": "leaves", "loaf": "loaves", "man": "men", "mouse": "mice", "person": "people", "sheep": "sheep",
    "tooth": "teeth", "wolf": "wolves", "woman": "women",
}  # fmt: skip
HARD, SIMILAR = 0.35, 0.25  # shares of the wrong things that the classifier thinks of, and that are alike


@dataclass(frozen=True)
class ClassThing(Thing):
    """What a class of the encoder's classifier shows.

    Attributes:
        noun: without article, "tench".
        kind: "fish".
    """

    noun: str
    kind: str

    @property
    def full_name(self) -> str:
        """ "a tench, a kind of fish", but "a goldfish"."""
        named = self.kind.lower() in self.noun.lower()
        return self.names[0] if named else f"{self.names[0]}, a kind of {self.kind}"


def classifier_classes() -> list[ClassThing]:
    """What the 1000 classes show, in the classifier's order, by name and kind of thing ("beagle", "dog")."""
    lines = Path(__file__).with_name("imagenet.txt").read_text(encoding="utf-8").splitlines()
    things = []
    for line in lines:
        if line and not line.startswith("#"):
            name, kind, category = line.split(" | ")
            names = tuple(dict.fromkeys([with_article(name), with_article(kind)]))
            things.append(ClassThing(names, frozenset([name.lower(), kind]), category, name, kind))
    return things


def alike(classes: Sequence[ClassThing]) -> list[list[ClassThing]]:
    """For each class those that it may be taken for: of its kind, or of its category where these are few."""
    kinds: dict[str, list[ClassThing]] = defaultdict(list)
    categories: dict[str | None, list[ClassThing]] = defaultdict(list)
    for thing in classes:
        kinds[thing.kind].append(thing)
        categories[thing.category].append(thing)
    return [
        kinds[thing.kind] if len(kinds[thing.kind]) > 2 else categories[thing.category] for thing in classes
    ]


def yes_or_no(
    thing: ClassThing,
    classes: Sequence[ClassThing],
    similar: Sequence[ClassThing],
    likely: Sequence[ClassThing],
    rng: random.Random,
) -> Example:
    """Whether it is something, yes as often as no.

    Args:
        similar: what the thing may be taken for, see `alike`.
        likely: what the classifier thinks of before this picture; may be empty.
    """
    if rng.random() < 0.5:
        named = rng.choice((thing.noun, thing.noun, thing.noun, thing.kind))
        return rng.choice(IS_IT).format(thing=with_article(named)), "yes"
    while True:
        draw = rng.random()
        among = likely if likely and draw < HARD else similar if draw < HARD + SIMILAR else classes
        other = rng.choice(among)
        named = rng.choice((other.noun, other.noun, other.noun, other.kind))
        if not is_right(named, thing):
            return rng.choice(IS_IT).format(thing=with_article(named)), "no"


def is_right(noun: str, thing: ClassThing) -> bool:
    """True if a thing may be called so: by its name, its kind, or a part or extension of its name."""
    called, own = noun.lower(), thing.noun.lower()
    return called == thing.kind.lower() or called in own or own in called


def naming(thing: ClassThing, rng: random.Random) -> Example:
    """What it is, mostly; else of which kind."""
    draw = rng.random()
    kind = thing.kind if thing.kind != thing.noun else thing.category or thing.kind
    if draw < 0.6:
        return rng.choice(WHAT), thing.names[0]
    if draw < 0.75 and kind not in CATEGORY_PHRASES:
        return rng.choice(OF_KIND).format(kind), thing.names[0]
    return rng.choice(KIND), CATEGORY_PHRASES.get(kind, with_article(kind))


def about_room(question: str, answer: str, rng: random.Random) -> Example:
    """A question of DAQUAR, half of the time with "in the image" at its end."""
    if rng.random() < 0.5 and not question.endswith(("photo?", "image?")):
        question = question.removesuffix("?").rstrip() + " in the image?"
    return question, answer


def about_colour(label: str, colour: str, rng: random.Random) -> Example:
    """Of which colour it is, in both spellings."""
    asked = rng.choice(("what {} is it?", "what {} is this?", f"what {{}} is the {label}?"))
    return asked.format(rng.choice(("colour", "color"))), colour


def about_composed(row: dict[str, Any], rng: random.Random) -> Example:
    """About a line of composed.jsonl: how many, what is where, which is on which side."""
    if row["way"] == "count":
        (label,), number = row["labels"], row["number"]
        if rng.random() < 0.75:
            return rng.choice(HOW_MANY).format(plural(label)), NUMBERS[number]
        many = with_article(label) if number == 1 else f"{NUMBERS[number]} {plural(label)}"
        return rng.choice(WHAT), many
    way, labels, side, draw = row["way"], row["labels"], rng.randrange(2), rng.random()
    if draw < 0.4:
        return f"what is {AT[way]} the {SIDES[way][side]}?", with_article(labels[side])
    if draw < 0.75:
        return f"where is the {labels[side]}?", f"{AT[way]} the {SIDES[way][side]}"
    relation = rng.randrange(2)  # the thing on side 0 is to the left of, or above, the other one
    question = f"is the {labels[side]} {RELATIONS[way][relation]} the {labels[1 - side]}?"
    return question, "yes" if relation == side else "no"


def plural(noun: str) -> str:
    """ "cat" -> "cats", "toy box" -> "toy boxes", "man" -> "men"."""
    *before, last = noun.split()
    if last in IRREGULAR:
        last = IRREGULAR[last]
    elif last.endswith(("s", "x", "z", "ch", "sh")):
        last += "" if is_plural(last) else "es"
    elif last.endswith("y") and last[-2:-1] not in "aeiou":
        last = last[:-1] + "ies"
    else:
        last += "s"
    return " ".join([*before, last])
