"""What the starter gets right on held-out media of Debian packages, and on photos of packages."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from epalm.config import GenerationConfig
from epalm.files import read_json_lines
from epalm.model import EPALM
from train.starter.clips import batches as clip_batches
from train.starter.clips.batches import ClipData
from train.starter.examples import IS_IT, KIND, WHAT, category_phrase
from train.starter.naming import names
from train.starter.pictures.batches import StarterData, held_out
from train.starter.probe import motion_lines
from train.starter.sounds import questions
from train.starter.sounds.batches import SoundData
from train.starter.sounds.public import SETS

MEDIA = {"image": "pictures", "video": "clips", "audio": "sounds"}


@torch.inference_mode()
def answers(
    model: EPALM, adapter: str, features: Sequence[Tensor], questions: Sequence[str | None]
) -> list[str]:
    """Greedy answers for raw encoder features (one (B, D_j) per token), one question (or None) each."""
    out: list[str] = []
    adapted = model.adapted[adapter]
    greedy = GenerationConfig(num_beams=1, max_new_tokens=20)
    for start in range(0, len(questions), 64):
        rows = slice(start, start + 64)
        ids = [adapted.text.ids(adapted.text.input(question)) for question in questions[rows]]
        out += adapted.answers([f[rows].float() for f in features], ids, greedy)
    return out


@dataclass(frozen=True)
class Score:
    """How many of `total` are right with an item's own features, and with another item's."""

    own: int
    other: int
    total: int

    @property
    def ratio(self) -> float:
        return self.own / max(self.other, 1)


@dataclass(frozen=True)
class Quiz:
    """What an adapter is asked about held-out media.

    Attributes:
        features: of the media, (B, D_j) per token, raw.
        swapped: for each item the position of another one, whose features must not give the right answer.
        accepted: for each item the words of which one must occur in the text.
    """

    name: str
    adapter: str
    features: Sequence[Tensor]
    swapped: Sequence[int]
    questions: Sequence[str | None]
    accepted: Sequence[Sequence[str]]

    def score(self, model: EPALM) -> tuple[Score, list[str]]:
        """The counts, and the texts for the media's own features."""
        moved = [f[list(self.swapped)] for f in self.features]
        own, other = (answers(model, self.adapter, f, self.questions) for f in (self.features, moved))
        right = [
            sum(names(text, words) for text, words in zip(texts, self.accepted, strict=True))
            for texts in (own, other)
        ]
        return Score(right[0], right[1], len(self.questions)), own


def swap(labels: Sequence[object]) -> list[int]:
    """For each item the position of another one with another label (seeded)."""
    rng = random.Random(0)
    return [rng.choice([j for j, other in enumerate(labels) if other != label]) for label in labels]


def picture_quizzes(data: StarterData) -> list[Quiz]:
    """Captions of all held-out pictures; questions about those with a category."""
    rng = random.Random(0)
    picked = held_out(data)
    things = [data.things[i] for i in picked]
    features = data.clean(picked, "caption")
    swapped = swap([data.rows[i]["label"] for i in picked])
    words = [sorted(thing.words) for thing in things]
    quizzes = [
        Quiz(
            "caption names the labelled thing",
            "image-caption",
            features,
            swapped,
            [None] * len(picked),
            words,
        )
    ]
    picked = [i for i in picked if data.things[i].category]
    things = [data.things[i] for i in picked]
    features = data.clean(picked, "qa")
    swapped = swap([data.rows[i]["label"] for i in picked])

    def ask(name: str, questions: list[str], accepted: list[list[str]]) -> None:
        quizzes.append(Quiz(name, "image-qa", features, swapped, questions, accepted))

    ask("what is it?", [rng.choice(WHAT) for _ in things], [sorted(t.words) for t in things])
    kinds = [[_bare(category_phrase(t.category or ""))] for t in things]
    ask("what kind of thing?", [rng.choice(KIND) for _ in things], kinds)
    truth = [["yes" if i % 2 == 0 else "no"] for i in range(len(things))]
    asked = []
    for i, thing in enumerate(things):
        about = thing if i % 2 == 0 else rng.choice([t for t in things if not t.words & thing.words])
        asked.append(rng.choice(IS_IT).format(thing=about.names[0]))
    ask("is it a …? (yes or no)", asked, truth)
    asked = []
    for i, thing in enumerate(things):
        others = [t.category for t in things if t.category != thing.category]
        category = thing.category if i % 2 == 0 else rng.choice(others)
        asked.append(rng.choice(IS_IT).format(thing=category_phrase(category or "")))
    ask("is it an animal, a food, …? (yes or no)", asked, truth)
    return quizzes


def clip_quizzes(data: ClipData) -> list[Quiz]:
    """Captions of and questions about the test clips; a swapped clip differs in thing and motion."""
    rng = random.Random(0)
    rows = [data.rows[i] for i in data.test]
    features = data.raw(data.frames[data.test], data.changes[data.test])
    swapped = [
        rng.choice(
            [
                j
                for j, other in enumerate(rows)
                if other["label"] != row["label"] and other["motion"] != row["motion"]
            ]
        )
        for row in rows
    ]
    things = [sorted(data.things[i].words) for i in data.test]
    motions = [row["motion_words"] for row in rows]
    blank: list[str | None] = [None] * len(rows)
    what = [rng.choice(clip_batches.WHAT) for _ in rows]
    how = [rng.choice(clip_batches.HOW) for _ in rows]
    return [
        Quiz("caption names the labelled thing", "video-caption", features, swapped, blank, things),
        Quiz("caption names the kind of motion", "video-caption", features, swapped, blank, motions),
        Quiz("what is it?", "video-qa", features, swapped, what, things),
        Quiz("what happens?", "video-qa", features, swapped, how, motions),
    ]


def sound_quizzes(data: SoundData) -> list[Quiz]:
    """Captions of and questions about the held-out sounds, alone and one after another."""
    rng = random.Random(0)
    quizzes: list[Quiz] = []

    def ask(
        name: str, task: str, views: list[int], asked: Sequence[str] | None, accepted: list[list[str]]
    ) -> None:
        said: list[str | None] = [None] * len(views) if asked is None else [rng.choice(asked) for _ in views]
        quizzes.append(Quiz(name, f"audio-{task}", data.raw(views), swap(accepted), said, accepted))

    def of(views: list[int], keep: Callable[[dict], bool]) -> list[int]:
        return [view for view in views if keep(data.rows[data.heard[view][0]])]

    def right(views: list[int], place: int = 0) -> list[list[str]]:
        return [right_words(data.rows[data.heard[view][place]]) for view in views]

    def told(views: list[int], key: str) -> list[str]:
        return [data.rows[data.heard[view][0]][key] for view in views]

    ask("caption names the labelled sound", "caption", data.test, None, right(data.test))
    rest = of(data.test, lambda row: row["category"] not in ("instrument", "voice"))
    ask("… of those, neither instrument nor voice", "caption", rest, None, right(rest))
    for source in SETS:
        origins = zip(data.test, told(data.test, "source"), strict=True)
        if views := [view for view, origin in origins if origin == source]:
            ask(f"… of those, {source}", "caption", views, None, right(views))
    ask("what do you hear?", "qa", data.test, questions.WHAT, right(data.test))
    kinds = [[_bare(questions.kind_phrase(kind))] for kind in told(data.test, "category")]
    ask("what kind of sound?", "qa", data.test, questions.KIND, kinds)
    played = of(data.test, lambda row: bool(row["family"]))
    ask("what kind of instrument?", "qa", played, questions.FAMILY, [[f] for f in told(played, "family")])
    said = of(data.test, lambda row: row["label"] in ("man", "woman"))
    ask("who is speaking? (man or woman)", "qa", said, questions.WHO, [[w] for w in told(said, "label")])
    both = [view for view in data.test_pairs if not data.mixed[view]]
    for place, order, asking in ((0, "first", questions.FIRST), (1, "last", questions.LAST)):
        ask(f"of two sounds in sequence, what comes {order}?", "qa", both, asking, right(both, place))
    return quizzes


def right_words(row: dict) -> list[str]:
    """What counts as naming a labelled sound."""
    return sorted({*row["words"], row["label"]})


def _bare(phrase: str) -> str:
    return re.sub(r"^(a|an) ", "", phrase)


def photo_rows(model: EPALM, data: StarterData, folder: Path) -> list[dict]:
    """Caption and answer for the photos that `folder/photos.jsonl` lists, through the whole pipeline.

    "classified" tells whether the encoder's own classifier names the thing.
    """
    rows = read_json_lines(folder / "photos.jsonl")
    recipe = model.recipes["image-caption"]
    encoder = model.encoders[model.adapted["image-caption"].adapter.config.encoder.id]
    for row in rows:
        path = folder / row["path"]
        row["caption"] = model.caption(path)
        row["answer"] = model.ask(path, "what is this?")
        row["named"] = names(row["caption"], row["accepted"])
        row["answered"] = names(row["answer"], row["accepted"])
        (feature,) = encoder(recipe(recipe.open(path))[None], (-1,))
        best = data.classes[int(data.sampler.scores(feature).argmax())]
        row["classified"] = names(" / ".join(best.words), row["accepted"])
    return rows


def own_media(model: EPALM, data: dict[str, Any], photos: Path) -> list[str]:
    """The tables of the work folder's held-out media, and of files of packages."""
    lines = [line for modality in MEDIA for line in modality_lines(model, modality, data[modality])]
    return lines + photo_lines(model, data["image"], photos) + real_lines(model)


def modality_lines(model: EPALM, modality: str, data: Any) -> list[str]:
    """The table of a modality's quizzes, and captions that are wrong."""
    makers: dict[str, Callable[[Any], list[Quiz]]]
    makers = {"image": picture_quizzes, "video": clip_quizzes, "audio": sound_quizzes}
    lines = [
        f"### {MEDIA[modality].capitalize()}",
        "",
        f"| asked of held-out {MEDIA[modality]} | of | right | with another one's features | ratio |",
        "|---|---|---|---|---|",
    ]
    failed: list[tuple[str, str, str]] = []
    for number, quiz in enumerate(makers[modality](data)):
        score, texts = quiz.score(model)
        lines.append(_row(quiz.name, score))
        print(lines[-1], flush=True)
        if number == 0:
            shown = held_out(data) if modality == "image" else data.test
            if modality == "audio":
                shown = [data.heard[view][0] for view in shown]
            rows = [data.rows[i] for i in shown]
            failed = [
                (Path(row["path"]).name, row["label"], text)
                for row, text, words in zip(rows, texts, quiz.accepted, strict=True)
                if not names(text, words)
            ]
    lines += ["", "Captions that miss the label, drawn at random:", ""]
    lines += ["| file | label | caption |", "|---|---|---|"]
    drawn = random.Random(0).sample(failed, min(12, len(failed)))
    lines += [f"| {name} | {label} | {_cell(text)} |" for name, label, text in drawn]
    lines.append("")
    if modality == "video":
        lines += [
            "Two ways of showing time to the language model were compared:",
            "",
            *motion_lines(data),
            "",
        ]
    return lines


def photo_lines(model: EPALM, data: StarterData, photos: Path) -> list[str]:
    """The table of real photos."""
    rows = photo_rows(model, data, photos)
    named, answered, classified = (
        sum(row[key] for row in rows) for key in ("named", "answered", "classified")
    )
    lines = [
        "### Real photos",
        "",
        f"On {len(rows)} real photos from Python packages and Debian's wallpapers, none used in training: "
        f'the caption names the main thing in {named}, the answer to "what is this?" in {answered}. '
        f"The encoder's own 1000-way classifier names it in {classified}.",
        "",
        "| photo | from | shows | caption | what is this? |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        caption, answer = (
            f"{_cell(row[text])} {'✓' if row[right] else '✗'}"
            for text, right in (("caption", "named"), ("answer", "answered"))
        )
        lines.append(f"| {row['original']} | {row['source']} | {row['label']} | {caption} | {answer} |")
    return lines


VOICE = ("man", "woman", "person", "child", "speaking", "voice")
WIND = ("saxophone", "clarinet", "trumpet", "trombone", "oboe", "flute", "horn", "tuba", "bassoon",
        "recorder", "brass", "harmonica")  # fmt: skip
REAL = {  # media of gradio's package: what is to be seen or heard, and what names it
    "videos/a.mp4": ("text appearing", ("text", "sign", "writing", "letters", "appearing")),
    "videos/b.mp4": ("the earth turning", ("earth", "globe", "planet", "world", "turning")),
    "videos/world.mp4": ("the earth turning", ("earth", "globe", "planet", "world", "turning")),
    "audio/sax.wav": ("a saxophone: any wind instrument counts", WIND),
    "audio/cantina.wav": ("a band", ("music", "band", "saxophone", "clarinet", "trumpet", "brass")),
    "audio/cate_blanch.mp3": ("a woman speaking", VOICE),
    "audio/cate_blanch_2.mp3": ("a woman speaking", VOICE),
    "audio/heath_ledger.mp3": ("a man speaking", VOICE),
    "audio/recording1.wav": ("by its name a recording; it looks like a tone", VOICE),
}


def real_lines(model: EPALM) -> list[str]:
    """The table of real videos and sounds."""
    media = resources.files("gradio") / "media_assets"
    lines = [
        "",
        "### Real videos and sounds",
        "",
        "| file of gradio's package | has | caption | what is this? |",
    ]
    lines.append("|---|---|---|---|")
    for name, (shows, accepted) in REAL.items():
        path = Path(str(media / name))
        caption, answer = model.caption(path), model.ask(path, "what is this?")
        marks = [f"{_cell(text)} {'✓' if names(text, accepted) else '✗'}" for text in (caption, answer)]
        lines.append(f"| {name} | {shows} | {marks[0]} | {marks[1]} |")
    return lines


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "/")


def _row(name: str, score: Score) -> str:
    own, other = (f"{count} ({100 * count / score.total:.0f} %)" for count in (score.own, score.other))
    return f"| {name} | {score.total} | {own} | {other} | {score.ratio:.1f} |"
