"""VQA v2 accuracy: how an answer is normalised, and how it is scored against ten human answers.

    vqa_accuracy(" Two dogs.", ["2 dogs"] * 3 + ["dogs"] * 7)   # 0.9 = (3 · 2/3 + 7 · 3/3) / 10

The steps and their oddities are those of the official evaluation as the original implementation and the
paper used it: the human answers go through the punctuation step only, and only where they disagree. (Other
copies of the script in use apply the number and article step to both sides.)
"""

from __future__ import annotations

import re
from collections.abc import Sequence

# Deleted or replaced one after the other, which is why the order is part of the definition.
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
DIGITS = {word: str(value) for value, word in enumerate(NUMBERS)} | {"none": "0"}
ARTICLES = frozenset({"a", "an", "the"})

# Each form is recognised with any one of its apostrophes missing. The official table also holds "Im", "Ive",
# "Id've" and "I'dve", which a lower-cased word never equals.
FORMS = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't
    he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've
    mustn't needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've
    somebody'd've somebody'll somebody's someone'd someone'd've someone'll someone's something'd
    something'd've something'll that's there'd there'd've there're there's they'd they'd've they'll they're
    they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's where'd where's where've
    who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've y'all
    y'all'd've y'all'll you'd you'd've you'll you're you've
"""
CONTRACTIONS = {
    form[:at] + form[at + 1 :]: form for form in FORMS.split() for at, c in enumerate(form) if c == "'"
}
CONTRACTIONS["somebody'd"] = "somebodyd"  # the official table has this pair the wrong way round

COMMA_IN_NUMBER = re.compile(r"\d,\d")
# Meant to keep a dot behind a digit too, but the official look-behind is mistyped and inert: "5." -> "5".
PERIOD = re.compile(r"\.(?!\d)")
MOST_PERIODS = 32  # a flag passed in the place of the count


def strip_punctuation(text: str) -> str:
    """`text` without punctuation, in its letter case: "T-shirt" -> "T shirt", "cats, dogs" -> "cats dogs".

    A mark that stands beside a space anywhere in `text` is deleted everywhere, otherwise it becomes a space;
    a number with a comma in it has all marks deleted: "1,000 people!" -> "1000 people".
    """
    number = COMMA_IN_NUMBER.search(text) is not None
    out = text
    for mark in PUNCTUATION:
        beside_space = f"{mark} " in text or f" {mark}" in text
        out = out.replace(mark, "" if number or beside_space else " ")
    return PERIOD.sub("", out, count=MOST_PERIODS)


def map_words(text: str) -> str:
    """Lower case, digits up to ten, no articles, apostrophes put back: "The two dont" -> "2 don't"."""
    words = [DIGITS.get(word, word) for word in text.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def normalise(answer: str) -> str:
    """A predicted answer as it is compared: " Yes." -> "yes", "a T-shirt" -> "t shirt"."""
    answer = answer.replace("\n", " ").replace("\t", " ").strip()
    return map_words(strip_punctuation(answer))


def vqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Accuracy in [0, 1] of one answer: the mean over each human left out of min(1, agreeing others / 3).

    Args:
        prediction: the model's text; it is normalised here.
        answers: the human answers as in the official annotations, normally ten.
    """
    predicted = normalise(prediction)
    if len(set(answers)) > 1:
        answers = [strip_punctuation(answer) for answer in answers]
    agrees = [answer == predicted for answer in answers]
    total = sum(agrees)
    return sum(min(1.0, (total - own) / 3) for own in agrees) / len(agrees)
