"""VQA v2 accuracy: normalise an answer, and score it against ten human answers.

    vqa_accuracy(" Two dogs.", ["2 dogs"] * 3 + ["dogs"] * 7)   # 0.9 = (3 · 2/3 + 7 · 3/3) / 10

The official evaluation script changed in March 2021; results from before and after are not comparable:

    before       the prediction goes through both steps (punctuation; numbers and articles), the human answers
                 only through the punctuation step, and only if they disagree. Used in the paper.
    since        if the human answers disagree, both sides go through both steps; if all ten are equal, both
                 sides are compared as written, including letter case.

Both are at https://github.com/GT-Vision-Lab/VQA; we keep their quirks.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

# Deleted or replaced one after another, so the order matters.
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
DIGITS = {word: str(value) for value, word in enumerate(NUMBERS)} | {"none": "0"}
ARTICLES = frozenset({"a", "an", "the"})

# Each form is recognised with any one of its apostrophes missing. The official table also has "Im", "Ive",
# "Id've" and "I'dve", which a lower-case word never matches.
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
# Meant to keep a dot after a digit as well, but the official look-behind has a typo and no effect: "5." ->
# "5".
PERIOD = re.compile(r"\.(?!\d)")
MOST_PERIODS = 32  # the official script passes a flag as the count


def strip_punctuation(text: str) -> str:
    """Remove punctuation, keeping letter case: "T-shirt" -> "T shirt", "cats, dogs" -> "cats dogs".

    A mark that is next to a space anywhere in `text` is deleted everywhere, otherwise it becomes a space. If
    there is a number with a comma, all marks are deleted: "1,000 people!" -> "1000 people".
    """
    number = COMMA_IN_NUMBER.search(text) is not None
    out = text
    for mark in PUNCTUATION:
        beside_space = f"{mark} " in text or f" {mark}" in text
        out = out.replace(mark, "" if number or beside_space else " ")
    return PERIOD.sub("", out, count=MOST_PERIODS)


def map_words(text: str) -> str:
    """Lower case, number words as digits, no articles, apostrophes restored: "The two dont" -> "2 don't"."""
    words = [DIGITS.get(word, word) for word in text.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def one_line(answer: str) -> str:
    """An answer without line breaks, tabs and surrounding spaces."""
    return answer.replace("\n", " ").replace("\t", " ").strip()


def normalise(answer: str) -> str:
    """An answer after both steps: " Yes." -> "yes", "a T-shirt" -> "t shirt"."""
    return map_words(strip_punctuation(one_line(answer)))


def vqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Accuracy of one answer in [0, 1], by the script from before March 2021.

    Args:
        prediction: the model's text; it is normalised here.
        answers: the human answers as in the official annotations, normally ten.
    """
    if len(set(answers)) > 1:
        answers = [strip_punctuation(answer) for answer in answers]
    return agreement(normalise(prediction), answers)


def vqa_accuracy_since_2021(prediction: str, answers: Sequence[str]) -> float:
    """Accuracy of one answer in [0, 1], by the script since March 2021; arguments as in `vqa_accuracy`.

    If all humans agree, the prediction is compared as written, except for surrounding spaces.
    """
    predicted, answers = one_line(prediction), [one_line(answer) for answer in answers]
    if len(set(answers)) > 1:
        predicted, answers = normalise(predicted), [normalise(answer) for answer in answers]
    return agreement(predicted, answers)


def agreement(predicted: str, answers: Sequence[str]) -> float:
    """The mean of min(1, agreeing humans / 3), leaving out each human in turn."""
    agrees = [answer == predicted for answer in answers]
    total = sum(agrees)
    return sum(min(1.0, (total - own) / 3) for own in agrees) / len(agrees)
