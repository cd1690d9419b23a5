"""Words that no dictionary has: how often a caption invents one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from train.starter.packages import unpack
from train.starter.pictures.questions import classifier_classes
from train.starter.sounds.kinds import KINDS
from train.starter.sounds.public import SETS, by_class

PACKAGE, LIST = "wamerican", "usr/share/dict/american-english"
WORD = re.compile(r"[^\W\d_]+")


def words_of(text: str) -> list[str]:
    """Words in lower case; "man's" has "man", and of what has hyphens each part is one."""
    return WORD.findall(re.sub(r"['’](s|t|re|ll|ve|d|m)\b", "", text.lower()))


def read_dictionary(work: Path) -> frozenset[str]:
    """Debian's American word list, and the words of what the encoders' classes and the sounds are called.

    Raises:
        EPALMError: the package cannot be fetched.
    """
    listed = unpack(PACKAGE, work / "debs", work / "packages") / LIST
    named = [name for thing in classifier_classes() for name in (thing.noun, thing.kind)]
    named += [text for kind in KINDS.values() for text in (kind.label, kind.caption, *kind.words)]
    for name in SETS:
        for sound in by_class(name).values():
            named += [sound.label, sound.caption, *sound.words, *sound.captions]
    return frozenset(words_of(" ".join([listed.read_text(encoding="utf-8"), *named])))


def invented(texts: Iterable[str], dictionary: frozenset[str]) -> list[list[str]]:
    """Of each text the words that the dictionary has not."""
    return [[word for word in words_of(text) if word not in dictionary] for text in texts]


def dictionary_lines(captions: Sequence[str], people: Sequence[str], dictionary: frozenset[str]) -> list[str]:
    """What share of captions has such a word, and which ones.

    Args:
        people: human captions, of which some have such words, too.
    """
    found = [words for words in invented(captions, dictionary) if words]
    which = ", ".join(sorted({word for words in found for word in words})[:40])
    told = (
        f"Of these {len(captions):,} captions {len(found)} ({share(found, captions):.1f} %) have a word that "
        f"is neither in Debian's `{PACKAGE}` nor in the name of a class{': ' + which if which else ''}."
    )
    if people:
        theirs = share([words for words in invented(people, dictionary) if words], people)
        told += f" Of {len(people):,} human captions of the same photos {theirs:.1f} % have one."
    return [told, ""]


def share(part: Sequence[object], whole: Sequence[object]) -> float:
    return 100 * len(part) / max(1, len(whole))
