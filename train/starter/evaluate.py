"""What the starter gets right on pictures and photos that no training saw -> assets/starter/README.md."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from epalm.model import EPALM
from train.starter.data import TOKENS, StarterData, held_out
from train.starter.examples import IS_IT, KIND, WHAT, category_phrase

MARKS = ("<!-- measured: begin -->", "<!-- measured: end -->")


def names(text: str, words: Sequence[str]) -> bool:
    """True if one of `words` stands in `text` as a whole word, singular or plural."""
    return any(re.search(rf"\b{re.escape(word)}(s|es)?\b", text.lower()) for word in words)


@torch.inference_mode()
def answers(model: EPALM, adapter: str, features: Tensor, questions: Sequence[str | None]) -> list[str]:
    """Greedy answers for raw encoder features (B, 1280), one question (or None) each."""
    out: list[str] = []
    text = model.texts[adapter]
    for start in range(0, len(features), 64):
        rows = slice(start, start + 64)
        tokens = model.adapters[adapter].tokens([features[rows].to(model.lm.device)] * TOKENS)
        ids = [text.ids(text.input(question)) for question in questions[rows]]
        new = model.decode(adapter, ids, tokens, beams=1, max_new_tokens=16)
        out += [text.answer(row) for row in new.tolist()]
    return out


@dataclass(frozen=True)
class Score:
    """How many of `total` are right with the picture's own features, and with another picture's."""

    own: int
    other: int
    total: int

    @property
    def ratio(self) -> float:
        return self.own / max(self.other, 1)


def another(data: StarterData, picked: Sequence[int]) -> list[int]:
    """For each picture another one with another label (seeded)."""
    rng = random.Random(0)
    swapped = []
    for i in picked:
        choices = [j for j in picked if data.rows[j]["label"] != data.rows[i]["label"]]
        swapped.append(rng.choice(choices))
    return swapped


def score_captions(model: EPALM, adapter: str, data: StarterData) -> tuple[Score, list[tuple[str, str, str]]]:
    """Captions of the held-out pictures; also (path, label, caption) of each."""
    picked = held_out(data)
    swapped = another(data, picked)
    words = [sorted(data.things[i].words) for i in picked]
    texts = [
        answers(model, adapter, data.views[rows, 0].float(), [None] * len(rows)) for rows in (picked, swapped)
    ]
    own, other = (sum(names(t, w) for t, w in zip(group, words, strict=True)) for group in texts)
    listed = [
        (data.rows[i]["path"], data.rows[i]["label"], text) for i, text in zip(picked, texts[0], strict=True)
    ]
    return Score(own, other, len(picked)), listed


def score_questions(model: EPALM, adapter: str, data: StarterData) -> dict[str, Score]:
    """Questions about the held-out pictures: the name, the category, yes or no (right half the time)."""
    rng = random.Random(0)
    picked = [i for i in held_out(data) if data.things[i].category]
    swapped = another(data, picked)
    things = [data.things[i] for i in picked]

    def right(questions: list[str], accepted: list[list[str]]) -> Score:
        counts = [
            sum(
                names(text, words)
                for text, words in zip(
                    answers(model, adapter, data.views[rows, 0].float(), questions), accepted, strict=True
                )
            )
            for rows in (picked, swapped)
        ]
        return Score(counts[0], counts[1], len(picked))

    scores = {
        "what is it?": right([rng.choice(WHAT) for _ in things], [sorted(t.words) for t in things]),
        "what kind of thing?": right(
            [rng.choice(KIND) for _ in things], [[_bare(category_phrase(t.category or ""))] for t in things]
        ),
    }
    asked, accepted = [], []
    for i, thing in enumerate(things):
        true = i % 2 == 0
        about = thing if true else rng.choice([t for t in things if not t.words & thing.words])
        asked.append(rng.choice(IS_IT).format(thing=about.names[0]))
        accepted.append(["yes" if true else "no"])
    scores["is it a …? (yes or no)"] = right(asked, accepted)
    asked, accepted = [], []
    for i, thing in enumerate(things):
        true = i % 2 == 0
        others = [t.category for t in things if t.category != thing.category]
        category = thing.category if true else rng.choice(others)
        asked.append(rng.choice(IS_IT).format(thing=category_phrase(category or "")))
        accepted.append(["yes" if true else "no"])
    scores["is it an animal, a food, …? (yes or no)"] = right(asked, accepted)
    return scores


def _bare(phrase: str) -> str:
    return re.sub(r"^(a|an) ", "", phrase)


def photo_rows(model: EPALM, data: StarterData, folder: Path) -> list[dict]:
    """Caption and answer for the photos that `folder/photos.jsonl` lists, through the whole pipeline.

    "classified" tells whether the encoder's own classifier, which the adapters do not use, names the thing.
    """
    rows = [json.loads(line) for line in (folder / "photos.jsonl").read_text().splitlines()]
    recipe = model.recipes["image-caption"]
    (encoder,) = model.encoders.values()
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


def report(model: EPALM, data: StarterData, photos: Path, file: Path) -> None:
    """Measure the adapters and put the tables between the marks of the starter's README."""
    captions, listed = score_captions(model, "image-caption", data)
    lines = [
        f"On {captions.total} held-out pictures (view as used, greedy), of {len(data.rows)} collected:",
        "",
        "| asked for | right | right with another picture's features | ratio |",
        "|---|---|---|---|",
        _row("caption names the labelled thing", captions),
    ]
    lines += [_row(name, score) for name, score in score_questions(model, "image-qa", data).items()]
    words = [sorted(data.things[i].words) for i in held_out(data)]
    wrong = [row for row, accepted in zip(listed, words, strict=True) if not names(row[2], accepted)]
    lines += ["", "Failures, drawn at random:", "", "| picture | label | caption |", "|---|---|---|"]
    shown = random.Random(0).sample(wrong, min(20, len(wrong)))
    lines += [f"| {Path(path).name} | {label} | {_cell(text)} |" for path, label, text in shown]
    rows = photo_rows(model, data, photos)
    named, answered, classified = (
        sum(row[key] for row in rows) for key in ("named", "answered", "classified")
    )
    lines += [
        "",
        f"On {len(rows)} real photos from Python packages and Debian's wallpapers, none used in training: "
        f'the caption names the main thing in {named}, the answer to "what is this?" in {answered}. '
        f"The encoder's own 1000-way classifier, which the adapters do not use, names it in {classified}.",
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
    written = file.read_text(encoding="utf-8") if file.exists() else ""
    before, _, rest = written.partition(MARKS[0])
    after = rest.partition(MARKS[1])[2]
    file.write_text("\n".join([before + MARKS[0], *lines, MARKS[1] + after]), encoding="utf-8")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "/")


def _row(name: str, score: Score) -> str:
    own, other = (f"{count} ({100 * count / score.total:.0f} %)" for count in (score.own, score.other))
    return f"| {name} | {own} | {other} | {score.ratio:.1f} |"
