"""Held-out photos: names, yes and no, descriptions, rooms."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from epalm.model import EPALM
from train.data.benchmarks.daquar import DAQUAR
from train.data.benchmarks.files import Files
from train.data.manifest import Item
from train.metrics.cider import CiderD
from train.metrics.exact import set_match
from train.metrics.tokenizer import tokenize
from train.starter.naming import named, named_or_kind
from train.starter.pictures.public import Photo, class_photos, flickr_photos
from train.starter.pictures.questions import ClassThing, classifier_classes, is_right
from train.starter.report.baselines import nearest, usual_answers
from train.starter.report.features import Opener, say
from train.starter.report.table import Row, Said
from train.starter.words import with_article

POOLED, PROBABILITIES = 4, 5  # features of the image encoder
LIKELY = 6  # classes that the encoder's head thinks of first
BLIND_EVERY = 3  # one of so many questions is asked with another file's features, too
QUESTIONS = 600  # of DAQUAR's test list, drawn with a fixed seed


def another(count: int) -> list[int]:
    """For each of so many items the position of another one, far from it: those beside it may be alike."""
    return [(i + max(1, count // 2)) % count for i in range(count)]


def moved(texts: Sequence[str]) -> list[str]:
    """What is said of another item: captions answer one request, so nothing needs to be said again."""
    return [texts[i] for i in another(len(texts))]


def cider(texts: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """Of every text, weighed by all of these references."""
    written = [[tokenize(each) for each in captions] for captions in references]
    scorer = CiderD(written)
    texts = [text.rstrip(".") for text in texts]
    return [scorer.score(tokenize(text), each) for text, each in zip(texts, written, strict=True)]


def divided(photos: Sequence[Photo]) -> tuple[list[Photo], list[Photo]]:
    """Those for training, and those held out."""
    return [p for p in photos if p.split == "train"], [p for p in photos if p.split == "test"]


def of_class(photo: Photo, classes: Sequence[ClassThing]) -> ClassThing:
    assert photo.label is not None
    return classes[photo.label]


def paths(photos: Sequence[Photo]) -> list[str]:
    return [str(photo.path) for photo in photos]


def scores(texts: Sequence[str], things: Sequence[ClassThing]) -> tuple[list[float], list[float]]:
    """Whether each text has the name of its thing, and whether it has its name or kind."""
    pairs = list(zip(texts, things, strict=True))
    return [float(named(*pair)) for pair in pairs], [float(named_or_kind(*pair)) for pair in pairs]


def begin_with(texts: Sequence[str], answers: Sequence[str]) -> list[float]:
    """Whether each text begins with the answer to its question."""
    pairs = zip(texts, answers, strict=True)
    return [float(text.lower().startswith(answer)) for text, answer in pairs]


def naming_rows(
    what: str,
    texts: Sequence[str],
    photos: Sequence[Photo],
    probabilities: Tensor,
    near: Sequence[Photo],
) -> list[Row]:
    """Two rows about captions (or answers) of photos of classes.

    Args:
        probabilities: (N, 1000) of the encoder's head.
        near: the most similar photo of training for each.
    """
    classes = classifier_classes()
    things = [of_class(photo, classes) for photo in photos]
    best = [classes[i] for i in probabilities.float().argmax(1).tolist()]
    said = [
        Said(photo.path.name, f"{thing.noun} ({thing.kind})", text)
        for photo, thing, text in zip(photos, things, texts, strict=True)
    ]

    def full(thing: ClassThing) -> str:
        return f"{thing.noun}, {thing.kind}"

    rows: list[Row] = []
    columns = zip(
        scores(texts, things),
        scores(moved(texts), things),
        scores([full(thing) for thing in best], things),
        scores([full(of_class(photo, classes)) for photo in near], things),
        strict=True,
    )
    for name, (right, blind, known, near_by) in zip(
        (f"{what} has the name", "… the name or the kind"), columns, strict=True
    ):
        rows.append(Row(name, right, blind, known, near_by, "head", said=said if not rows else ()))
    return rows


@dataclass(frozen=True)
class Asked:
    """ "is this a …?" about a photo."""

    photo: int
    thing: ClassThing
    answer: str

    @property
    def question(self) -> str:
        return f"is this {with_article(self.thing.noun)}?"


def both_names(things: Sequence[ClassThing], among: Sequence[Sequence[ClassThing]]) -> list[Asked]:
    """About every photo its own name, and a wrong one (seeded).

    Args:
        among: what the wrong one is drawn from, for every photo; where all of it is right, from all classes.
    """
    rng, asked = random.Random(0), []
    for i, (thing, some) in enumerate(zip(things, among, strict=True)):
        wrong = [other for other in some if not is_right(other.noun, thing)]
        wrong = wrong or [other for other in classifier_classes() if not is_right(other.noun, thing)]
        asked += [Asked(i, thing, "yes"), Asked(i, rng.choice(wrong), "no")]
    return asked


def yes_or_no_rows(
    model: EPALM,
    adapter: str,
    photos: Sequence[Photo],
    features: Sequence[Tensor],
    near: Sequence[Photo],
) -> list[Row]:
    """ "is this a …?" with the right name, and with that of a random or of a likely other class."""
    classes = classifier_classes()
    things = [of_class(photo, classes) for photo in photos]
    best = features[PROBABILITIES].float().topk(LIKELY, dim=1).indices.tolist()
    likely = [[classes[c] for c in row] for row in best]
    against = {
        "a random other class": both_names(things, [classes] * len(things)),
        "a class that the encoder finds likely": both_names(things, likely),
    }
    different = list(dict.fromkeys((a.photo, a.question) for asked in against.values() for a in asked))
    some = [(photo, question) for photo, question in different if photo % BLIND_EVERY == 0]
    swapped = another(len(photos))
    own, other = (
        dict(zip(pairs, say(model, adapter, features, seen, [q for _, q in pairs]), strict=True))
        for pairs, seen in (
            (different, [photo for photo, _ in different]),
            (some, [swapped[photo] for photo, _ in some]),
        )
    )
    rows: list[Row] = []
    for name, asked in against.items():
        wanted = [a.answer for a in asked]
        texts = [own[a.photo, a.question] for a in asked]
        rows.append(
            Row(
                f'"is this a …?" against {name}' if not rows else f"… against {name}",
                begin_with(texts, wanted),
                [
                    float(other[a.photo, a.question].lower().startswith(a.answer))
                    for a in asked
                    if (a.photo, a.question) in other
                ],
                known=[float((a.thing == likely[a.photo][0]) == (a.answer == "yes")) for a in asked],
                near=[
                    float((a.thing == of_class(near[a.photo], classes)) == (a.answer == "yes")) for a in asked
                ],
                known_by="head's first guess",
                said=[
                    Said(photos[a.photo].path.name, f"{a.question} {a.answer}", text)
                    for a, text in zip(asked, texts, strict=True)
                ],
            )
        )
    return rows


def photo_rows(model: EPALM, public: Path, opener: Opener) -> tuple[list[Row], list[str]]:
    """Photos of classes."""
    train, test = divided(class_photos(public))
    if not test:
        return [], []
    features = opener.features("class-photos-test", paths(test))
    trained = opener.features("class-photos-train", paths(train))
    near = [train[i] for i in nearest(trained[POOLED], features[POOLED])]
    numbers = range(len(test))
    captions = say(model, "image-caption", features, numbers, [None] * len(test))
    rows = naming_rows("photos, one a class: caption", captions, test, features[PROBABILITIES], near)
    answers = say(model, "image-qa", features, numbers, ["what is this?"] * len(test))
    rows += naming_rows('"what is this?"', answers, test, features[PROBABILITIES], near)
    return rows + yes_or_no_rows(model, "image-qa", test, features, near), captions


def scene_rows(model: EPALM, public: Path, opener: Opener) -> tuple[list[Row], list[str]]:
    """Flickr8k's captions."""
    train, test = divided(flickr_photos(public))
    if not test:
        return [], []
    features = opener.features("flickr8k-test", paths(test))
    trained = opener.features("flickr8k-train", paths(train))
    captions = say(model, "image-caption", features, range(len(test)), [None] * len(test))
    references = [photo.captions for photo in test]
    near = [train[i].captions[0] for i in nearest(trained[POOLED], features[POOLED])]
    people = [captions[0] for captions in references]
    row = Row(
        "Flickr8k captions, CIDEr × 100",
        cider(captions, references),
        cider(moved(captions), references),
        near=cider(near, references),
        unit="",
        said=[
            Said(p.path.name, wanted, text) for p, wanted, text in zip(test, people, captions, strict=True)
        ],
    )
    return [row], captions


def room_rows(model: EPALM, public: Path, opener: Opener, limit: int = QUESTIONS) -> list[Row]:
    """DAQUAR's test list."""
    if not (public / "daquar").is_dir():
        print("daquar: no folder of this name, so it is not measured", flush=True)
        return []
    splits = {
        split: [item for item in items if Path(item.media).is_file() and item.prompt]
        for split, items in DAQUAR.read(Files(public / "daquar", "image")).items()
    }
    train, test = splits["trainval"], splits["test"]
    if len(test) > limit:
        test = random.Random(0).sample(test, limit)
    photos, trained = (sorted({item.media for item in items}) for items in (test, train))
    features = opener.features("daquar-test", photos)
    known = opener.features("daquar-train", trained)
    place = {photo: i for i, photo in enumerate(photos)}
    about = [place[item.media] for item in test]
    questions = [item.prompt for item in test]
    own = say(model, "image-qa", features, about, questions)
    swapped = [another(len(photos))[i] for i in about]
    other = say(model, "image-qa", features, swapped[::BLIND_EVERY], questions[::BLIND_EVERY])
    usual, most = usual_answers([str(item.prompt) for item in train], [item.answers[0] for item in train])
    near = nearest_answers(train, test, [known[POOLED], features[POOLED]], trained, photos, usual, most)
    guessed = [usual.get(str(item.prompt), most) for item in test]

    def right(texts: Sequence[str], every: int = 1) -> list[float]:
        return [set_match(text, item.answers) for text, item in zip(texts, test[::every], strict=True)]

    said = [
        Said(Path(item.media).name, f"{item.prompt} {item.answers[0]}", text)
        for item, text in zip(test, own, strict=True)
    ]
    name = "DAQUAR, test list, exact answers"
    return [
        Row(
            name,
            right(own),
            right(other, BLIND_EVERY),
            right(guessed),
            right(near),
            "usual answer",
            said=said,
        )
    ]


def nearest_answers(
    train: Sequence[Item],
    test: Sequence[Item],
    features: Sequence[Tensor],
    trained: Sequence[str],
    photos: Sequence[str],
    usual: dict[str, str],
    most: str,
) -> list[str]:
    """The answer to the same question about the most similar photo that was asked it; else the usual one.

    Args:
        features: pooled, of the photos in `trained` and of those in `photos`.
    """
    by_question: dict[str, list[Item]] = {}
    for item in train:
        by_question.setdefault(str(item.prompt), []).append(item)
    rows, places = {p: i for i, p in enumerate(trained)}, {p: i for i, p in enumerate(photos)}
    answers = []
    for item in test:
        same = by_question.get(str(item.prompt), [])
        if not same:
            answers.append(most)
            continue
        among = features[0][torch.tensor([rows[other.media] for other in same])]
        mean = features[0].float().mean(0)
        likeness = torch.cosine_similarity(
            among.float() - mean, features[1][places[item.media]].float()[None] - mean
        )
        answers.append(same[int(likeness.argmax())].answers[0])
    return answers
