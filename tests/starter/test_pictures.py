"""What the starter is trained and tested on: labels, the split, questions, drawn features."""

import random
import re
from collections import Counter

import pytest
import torch
from PIL import Image, ImageDraw

from train.starter.distil import ClassifierSampler
from train.starter.examples import (
    IS_IT,
    KIND,
    WHAT,
    WHICH,
    Thing,
    category_phrase,
    question_about,
)
from train.starter.measure import names, swap
from train.starter.pictures.questions import classifier_classes
from train.starter.split import groups_of, near_duplicates, split, thumbnail
from train.starter.words import CATEGORY_OF, LABEL_OF, head_label, with_article

# Words


def test_every_label_has_a_category_and_every_word_a_label():
    assert len(set(CATEGORY_OF.values())) == 21
    assert set(LABEL_OF.values()) <= set(CATEGORY_OF) <= set(LABEL_OF)
    assert (LABEL_OF["mela"], CATEGORY_OF["apple"]) == ("apple", "food")


@pytest.mark.parametrize(
    ("noun", "phrase"),
    [
        ("lion", "a lion"),
        ("elephant", "an elephant"),
        ("unicycle", "a unicycle"),
        ("hourglass", "an hourglass"),
        ("bread", "some bread"),
        ("apples", "some apples"),
        ("glass", "a glass"),
        ("scissors", "a pair of scissors"),
        ("sun", "the sun"),
        ("santa claus", "santa claus"),
    ],
)
def test_nouns_get_the_article_that_english_gives_them(noun, phrase):
    assert with_article(noun) == phrase


def test_a_phrase_is_labelled_by_its_longest_known_ending():
    assert head_label("a small Wooden Table") == "table"
    assert head_label("digital camera") == "camera"
    assert head_label("the quality of mercy") is None


def test_the_classifier_has_1000_classes_of_known_categories():
    classes = classifier_classes()
    assert len(classes) == 1000
    assert {thing.category for thing in classes} <= set(CATEGORY_OF.values())
    assert "a tench" in classes[0].names and "a fish" in classes[0].names


# Questions

THINGS = [
    Thing(("a tabby cat", "a cat"), frozenset({"cat", "kitten"}), "animal"),
    Thing(("a dog",), frozenset({"dog"}), "animal"),
    Thing(("an apple",), frozenset({"apple"}), "food"),
    Thing(("a spanner",), frozenset({"spanner"}), "tool"),
]
UNCLASSED = Thing(("a whatnot",), frozenset({"whatnot"}), None)
OTHERS = THINGS + [
    Thing((with_article(word),), frozenset({word}), category)
    for category, words in (
        ("animal", "horse lion bee"),
        ("food", "banana pizza bread"),
        ("tool", "hammer saw axe"),
        ("vehicle", "bus truck boat"),
    )
    for word in words.split()
]


def asked_about(thing: Thing, times: int) -> list[tuple[str, str]]:
    rng = random.Random(0)
    return [question_about(thing, OTHERS, rng) for _ in range(times)]


def phrase_of(question: str) -> str | None:
    """The "a cat" of "is this a cat?"."""
    for template in IS_IT:
        before, after = template.split("{thing}")
        if match := re.fullmatch(f"{re.escape(before)}(.+){re.escape(after)}", question):
            return match[1]
    return None


@pytest.mark.parametrize("thing", [*THINGS, UNCLASSED], ids=lambda thing: thing.names[-1])
def test_answers_are_right(thing):
    kind = None if thing.category is None else category_phrase(thing.category)
    which = [question.format(category=thing.category) for question in WHICH]
    for question, answer in asked_about(thing, 2000):
        if question in KIND:
            assert answer == kind
        elif question in WHAT or question in which:
            assert answer in thing.names
        else:
            assert answer == ("yes" if phrase_of(question) in (*thing.names, kind) else "no")


@pytest.mark.parametrize("thing", THINGS, ids=lambda thing: thing.names[-1])
def test_half_are_of_the_name_a_third_yes_or_no_and_these_are_balanced(thing):
    answers = Counter(answer for _, answer in asked_about(thing, 6000))
    decided = answers["yes"] + answers["no"]
    assert decided / 6000 == pytest.approx(0.37, abs=0.02)
    assert answers["yes"] / decided == pytest.approx(0.5, abs=0.03)
    assert sum(answers[name] for name in thing.names) / 6000 == pytest.approx(0.5, abs=0.02)


def test_no_question_is_about_nothing():
    """Neither the missing category of a thing nor an unfilled template is ever asked for or answered."""
    for thing in (*THINGS, UNCLASSED):
        for question, answer in asked_about(thing, 2000):
            assert answer and "None" not in question + answer and "{" not in question


def test_no_class_is_denied_by_one_of_its_own_names():
    rng = random.Random(0)
    classes = classifier_classes()
    for thing in classes:
        for _ in range(5):
            question, answer = question_about(thing, classes, rng)
            assert answer != "no" or phrase_of(question) not in thing.names


# Features


@pytest.fixture
def sampler():
    """Six Gaussian clouds of one width in a positive space, and the classifier that tells them apart."""
    generator = torch.Generator().manual_seed(0)
    means = 1 + 2 * torch.rand(6, 24, generator=generator)
    width = 0.5
    clouds = means[:, None] + width * torch.randn(6, 200, 24, generator=generator)
    weight, bias = means / width**2, -means.square().sum(1) / (2 * width**2)
    return ClassifierSampler(weight, bias, clouds.flatten(0, 1).clamp(min=0))


def test_drawn_features_are_of_the_wanted_class_and_not_negative(sampler):
    classes = torch.arange(6).repeat(50)
    drawn = sampler.draw(classes, torch.Generator().manual_seed(1))
    assert drawn.shape == (300, 24)
    assert drawn.min() >= 0
    probability = (drawn @ sampler.weight.T + sampler.bias).softmax(-1)
    wanted = probability.gather(1, classes[:, None])
    assert (wanted > 0.2).float().mean() > 0.99
    assert (probability.argmax(1) == classes).float().mean() > 0.85


def test_draws_differ_and_are_repeated_by_their_seed(sampler):
    classes = torch.zeros(8, dtype=torch.long)
    generator = torch.Generator().manual_seed(1)
    first, second = sampler.draw(classes, generator), sampler.draw(classes, generator)
    again = sampler.draw(classes, torch.Generator().manual_seed(1))
    assert torch.equal(first, again)
    assert torch.cdist(torch.cat([first, second]), torch.cat([first, second])).fill_diagonal_(1).min() > 0.01


# Split


def pictures() -> list[dict]:
    """Two packages with 100 pictures each, in groups of one to eight, of 30 labels."""
    rng = random.Random(0)
    rows, group = [], 0
    for source in ("first", "second"):
        made = 0
        while made < 100:
            group, size = group + 1, min(rng.choice((1, 1, 2, 3, 8)), 100 - made)
            label = f"label {rng.randrange(30)}"
            rows += [{"source": source, "label": label, "group": group} for _ in range(size)]
            made += size
    return rows


def test_groups_stay_on_one_side_of_the_split():
    rows = pictures()
    split(rows, seed=0)
    sides = {group: {r["split"] for r in rows if r["group"] == group} for group in {r["group"] for r in rows}}
    assert {len(side) for side in sides.values()} == {1}
    for source in ("first", "second"):
        tested = sum(r["split"] == "test" for r in rows if r["source"] == source)
        assert 15 <= tested <= 15 + 5  # the last group may have up to six
    sizes = Counter(r["group"] for r in rows)
    assert max(sizes[r["group"]] for r in rows if r["split"] == "test") <= 6
    trained = {r["label"] for r in rows if r["split"] == "train"}
    assert all(r["label_seen"] == (r["label"] in trained) for r in rows)


def test_the_split_is_the_same_for_the_same_seed():
    runs = []
    for seed in (0, 0, 1):
        rows = pictures()
        split(rows, seed)
        runs.append([row["split"] for row in rows])
    assert runs[0] == runs[1] != runs[2]


def test_groups_are_the_connected_components():
    same = torch.zeros(6, 6, dtype=torch.bool)
    for i, j in ((0, 3), (3, 5), (1, 2)):
        same[i, j] = same[j, i] = True
    assert groups_of(same) == [0, 1, 1, 0, 4, 0]


def test_a_mirrored_picture_of_the_same_label_is_a_duplicate():
    drawing = Image.new("RGBA", (120, 90))
    ImageDraw.Draw(drawing).polygon([(10, 80), (30, 10), (110, 70)], fill="red")
    other = Image.new("RGBA", (120, 90))
    ImageDraw.Draw(other).ellipse([40, 20, 90, 85], fill="blue")
    mirrored = drawing.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    thumbnails = torch.stack([thumbnail(picture) for picture in (drawing, mirrored, other, mirrored)])
    features = torch.eye(4)  # as different as can be, so that the outlines decide
    alike = near_duplicates(features, thumbnails, torch.tensor([0, 0, 0, 1]))
    assert alike[0].tolist() == [True, True, False, False]


# Scores


@pytest.mark.parametrize(
    ("text", "words", "right"),
    [
        ("a cat", ["cat"], True),
        ("Two Cats.", ["cat"], True),
        ("a category", ["cat"], False),
        ("some boxes", ["box"], True),
        ("a hot dog", ["dog"], True),
        ("a bobcat", ["cat"], False),
        ("a sports car", ["sports car"], True),
        ("a dog", ["cat", "dog"], True),
        ("", ["cat"], False),
    ],
)
def test_a_word_counts_if_it_stands_alone_singular_or_plural(text, words, right):
    assert names(text, words) == right


def test_another_picture_never_has_the_same_label():
    labels = ["cat"] * 20 + ["dog"]
    swapped = swap(labels)
    assert swapped[:20] == [20] * 20
    assert labels[swapped[20]] == "cat"
    assert swapped == swap(labels)
