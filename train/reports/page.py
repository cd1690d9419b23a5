"""python -m train report RUN_DIR: one page about a training, from what `fit` and `evaluate` wrote so far.

The page, RUN_DIR/report.html, holds its pictures and sounds itself and loads nothing from anywhere; the
curves are also RUN_DIR/loss.png, learning_rate.png and metrics.png.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from html import escape
from pathlib import Path
from typing import Any

from epalm.config import AdapterConfig
from epalm.errors import EPALMError
from epalm.files import read_json_lines, write_atomic

Row = dict[str, Any]

SHOWN = 6  # samples of a kind
LISTED = 100  # failures
FREQUENT = 5  # wrong predictions
REFERENCES = 5  # of a caption

# Nothing is loaded and no script runs, whatever a prediction contains.
POLICY = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'"
VOID = ("br", "img", "meta", "source")  # elements without an end


def add_report(commands: Any) -> None:
    """Register `report` among the subparsers of `python -m train`."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "report",
        help="one HTML page about a run: curves, results, samples, failures, cost",
        description="Write RUN_DIR/report.html, one page that needs no network: loss and learning-rate "
        "curves, metrics per epoch and on the evaluated splits, the best, the worst and random predictions "
        "with their media, failures, cost and settings; and the curves as PNG files beside it. Works while a "
        "training runs: the page says what is not there yet.",
    )
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="folder that fit or evaluate wrote")
    parser.add_argument(
        "--media",
        type=Path,
        default=Path(),
        metavar="DIR",
        help="folder that relative media paths start from (default: the current one)",
    )
    parser.set_defaults(run=lambda arguments: print(write_report(arguments.run_dir, arguments.media)))


def write_report(folder: Path, media: Path = Path()) -> Path:
    """Write the page and the curves of a run into its folder; returns the page's path.

    Args:
        media: folder that relative media paths of the predictions start from.

    Raises:
        EPALMError: the folder is no run or cannot be written, or a file in it is damaged.
    """
    run = read(folder)
    body = [
        tag("h1", folder.resolve().name),
        tag("p", progress(run), class_="quiet"),
        curves(run, folder),
        *results(run),
        *(part for name, rows in run.predictions.items() for part in samples(name, rows, run, media)),
        cost(run),
        settings(run),
    ]
    page = folder / "report.html"
    css = Html(Path(__file__).with_suffix(".css").read_text(encoding="utf-8"))
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", f"{folder.resolve().name} · eP-ALM"),
        tag("style", css),
    )
    text = "<!doctype html>\n" + tag("html", head, tag("body", *body), lang="en")
    write_atomic(page, [text])
    return page


# ---------------------------------------------------------------- what a run left


@dataclass(frozen=True)
class Run:
    """What the folder of a run has so far."""

    config: str | None
    steps: list[Row]
    epochs: list[Row]
    metrics: dict[str, Row]  # by split
    predictions: dict[str, list[Row]]  # by split
    cost: Row | None
    modality: str | None  # of its adapter


def read(folder: Path) -> Run:
    """Read whatever of a run is there; EPALMError if nothing is, or if a file is damaged."""
    if not folder.is_dir():
        raise EPALMError(f"{folder} is not a folder: give the folder that a training wrote.")
    config, log, costs = (folder / name for name in ("config.yaml", "log.jsonl", "cost.json"))
    metrics, predictions = by_split(folder, "metrics-*.json"), by_split(folder, "predictions-*.jsonl")
    if not (config.exists() or log.exists() or metrics or predictions):
        raise EPALMError(
            f"{folder} is not the folder of a run: it has neither config.yaml nor log.jsonl nor results."
        )
    logged = rows(log)
    adapter = next(
        (path for part in ("best", "last") if (path := folder / part / "config.json").exists()), None
    )
    return Run(
        config=config.read_text(encoding="utf-8") if config.exists() else None,
        # A resumed training repeats the steps since its last checkpoint: the later row counts.
        steps=latest((row for row in logged if row["kind"] == "step"), "step"),
        epochs=latest((row for row in logged if row["kind"] == "epoch"), "epoch", "split"),
        metrics={split: parsed(path) for split, path in metrics.items()},
        predictions={split: latest(rows(path), "id") for split, path in predictions.items()},
        cost=parsed(costs) if costs.exists() else None,
        modality=AdapterConfig.load(adapter).task.modality if adapter else None,
    )


def by_split(folder: Path, pattern: str) -> dict[str, Path]:
    """The files of a name by the split in it, in alphabetical order."""
    before, after = pattern.split("*")
    return {path.name[len(before) : -len(after)]: path for path in sorted(folder.glob(pattern))}


def rows(path: Path) -> list[Row]:
    """The JSON lines of a file, none if it is missing; a last one that is still being written is left out."""
    found = read_json_lines(path) if path.exists() else []
    return [object_of(row, f"{path}:{number}") for number, row in enumerate(found, 1)]


def parsed(path: Path) -> Row:
    try:
        return object_of(json.loads(path.read_bytes()), str(path))
    except ValueError as error:
        raise EPALMError(f"{path} is not valid JSON ({error}): it is damaged.") from None


def object_of(row: Any, where: str) -> Row:
    if not isinstance(row, dict):
        raise EPALMError(f"{where} is not a JSON object: it was not written by a training.")
    return row


def latest(rows: Iterable[Row], *keys: str) -> list[Row]:
    """The last row of each key, in the order of the first ones."""
    return list({tuple(row[key] for key in keys): row for row in rows}.values())


def choose(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The samples to show, the same for the same predictions in any order; of equal scores, random ones."""
    if len(rows) <= SHOWN:
        return {"All predictions": list(rows)}
    mixed = mix(rows)
    ranked = sorted((row for row in mixed if row["score"] is not None), key=lambda row: row["score"])
    best = sorted(ranked, key=lambda row: -row["score"])
    kinds = {"Best": best[:SHOWN], "Worst": ranked[:SHOWN], "Random": mixed[-SHOWN:]}
    return {kind: chosen for kind, chosen in kinds.items() if chosen}


def mix(rows: Sequence[Row]) -> list[Row]:
    """An arbitrary but fixed order, by the hash of the id."""
    return sorted(rows, key=lambda row: sha256(json.dumps(row["id"]).encode()).digest())


# ---------------------------------------------------------------- the page's parts


class Html(str):
    """Text that is HTML already."""


def tag(name: str, /, *content: str, **attributes: str) -> Html:
    """An element. Whatever is not Html is escaped, so data cannot become markup."""
    pairs = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"' for key, value in attributes.items()
    )
    inner = "".join(part if isinstance(part, Html) else escape(part) for part in content)
    return Html(f"<{name}{pairs}>" if name in VOID else f"<{name}{pairs}>{inner}</{name}>")


def missing(text: str) -> Html:
    return tag("p", text, class_="missing")


def progress(run: Run) -> str:
    """How far the training is, in one sentence."""
    if not run.steps:
        return "No training is logged here." if run.metrics or run.predictions else "No step is logged yet."
    last = run.steps[-1]
    state = "Trained" if run.cost else "Still training, or stopped"
    where = f"step {last['step']:,}, epoch {last['epoch']:.3g}, loss {last['loss']:.3f}"
    return f"{state}: {where}, {duration(last['seconds'])}."


def curves(run: Run, folder: Path) -> Html:
    """Loss, learning rate and metrics, for both colour schemes."""
    from train.reports import figures  # brings PyTorch and matplotlib, which --help need not wait for

    charts, notes = [], []
    if run.steps:
        charts += [
            ("Loss by step", figures.chart(figures.losses(run.steps), folder / "loss.png")),
            (
                "Learning rate by step",
                figures.chart(figures.learning_rates(run.steps), folder / "learning_rate.png"),
            ),
        ]
    else:
        notes.append(missing("No loss curve yet: log.jsonl has no step."))
    if run.epochs:
        charts.append(
            ("Metrics by epoch", figures.chart(figures.metrics(run.epochs), folder / "metrics.png"))
        )
    else:
        notes.append(missing("No metric per epoch yet: no epoch was evaluated."))
    pictures = [
        tag(
            "picture",
            tag("source", media="(prefers-color-scheme: dark)", srcset=dark),
            tag("img", src=light, alt=name),
        )
        for name, (light, dark) in charts
    ]
    return tag("section", tag("h2", "Training"), tag("div", *pictures, class_="charts"), *notes)


def results(run: Run) -> list[Html]:
    """A table for each evaluated split: this run, the paper, and the same model without the right media."""
    if not run.metrics:
        return [
            tag("h2", "Results"),
            missing("No results yet: python -m train evaluate writes metrics-SPLIT.json."),
        ]
    parts = []
    for split, found in run.metrics.items():
        columns = {
            "metric × 100": found["metrics"],
            "this run": found["metrics"],
            "paper": found.get("paper"),
            "another item’s media": found.get("blind"),
            "no media": found.get("text_only"),
        }
        columns = {name: values for name, values in columns.items() if values is not None}
        body = [
            tag(
                "tr",
                tag("th", name, scope="row"),
                *(tag("td", percent(values.get(name))) for values in list(columns.values())[1:]),
            )
            for name in found["metrics"]
        ]
        head = tag("tr", *(tag("th", name, scope="col") for name in columns))
        table = tag("table", tag("thead", head), tag("tbody", *body), class_="results")
        absent = [tag("p", why, class_="quiet") for why in found["absent"].values()]
        parts += [
            tag("h2", f"Results on {split}"),
            tag("div", table, class_="scroll"),
            tag("p", f"{found['count']:,} items.", class_="quiet"),
            *absent,
        ]
        if split not in run.predictions:
            parts.append(missing(f"No samples: predictions-{split}.jsonl is not there."))
    return parts


def samples(split: str, rows: Sequence[Row], run: Run, media: Path) -> list[Html]:
    """Predictions with their media, and those that are all wrong."""
    heading = tag("h2", f"Predictions on {split}")
    if not rows:
        return [heading, missing("No prediction is written yet.")]
    parts = [heading, tag("p", f"{len(rows):,} predictions.", class_="quiet")]
    if split not in run.metrics:
        parts.append(missing(f"The evaluation has not finished: metrics-{split}.json is not there yet."))
    for kind, chosen in choose(rows).items():
        cards = (card(row, media, run.modality) for row in chosen)
        parts += [tag("h3", kind), tag("div", *cards, class_="cards")]
    return [*parts, tag("h3", "Failures"), *failures(rows)]


def card(row: Row, media: Path, modality: str | None) -> Html:
    """A prediction below its media."""
    words = [
        tag("p", score(row), class_="score"),
        *([tag("p", row["prompt"])] if row["prompt"] else []),
        tag("p", said(row), class_="prediction"),
        tag("small", "Answers" if row["prompt"] else "References"),
        tag("ul", *(tag("li", answer) for answer in answers(row)[:REFERENCES])),
        tag("small", f"{row['id']} · {Path(row['media']).name}"),
    ]
    return tag(
        "div", *shown(row["media"], media, modality), tag("div", *words, class_="words"), class_="card"
    )


def shown(name: str, media: Path, modality: str | None) -> list[Html]:
    """A media file's preview, or its name and what is wrong with it."""
    from train.reports import figures  # as above

    path = media / name
    try:
        preview = figures.preview(path, modality)
    except EPALMError as error:
        return [tag("div", path.name + str(error).removeprefix(str(path)), class_="gone")]
    pictures = [tag("img", src=picture, alt=path.name, loading="lazy") for picture in preview.pictures]
    if len(pictures) > 1:
        return [tag("div", *pictures, class_="strip")]
    return pictures + ([tag("audio", controls="", src=preview.sound)] if preview.sound else [])


def failures(rows: Sequence[Row]) -> list[Html]:
    """Predictions of score 0 as a list, and the most frequent of them."""
    scored = [row for row in rows if row["score"] is not None]
    if not scored:
        return [missing("Not scored: this split has no answers.")]
    failed = [row for row in mix(scored) if row["score"] == 0]
    if not failed:
        return [tag("p", "No prediction has the score 0.")]
    often = Counter(said(row) for row in failed).most_common(FREQUENT)
    frequent = ", ".join(f"“{text}” {count:,}×" for text, count in often)
    items = (
        tag(
            "li",
            tag("b", said(row)),
            " instead of ",
            "; ".join(answers(row)[:REFERENCES]),
            tag("br"),
            tag("small", " · ".join(filter(None, (row["prompt"], Path(row["media"]).name)))),
        )
        for row in failed[:LISTED]
    )
    share = f"{len(failed):,} of {len(scored):,} predictions ({percent(len(failed) / len(scored))} %)"
    listed = "" if len(failed) <= LISTED else f", {LISTED} of them listed"
    return [
        tag("p", f"Most frequent: {frequent}."),
        tag(
            "details",
            tag("summary", f"{share} have the score 0{listed}"),
            tag("ul", *items, class_="failures"),
        ),
    ]


def cost(run: Run) -> Html:
    """Time, memory and parameters of the training."""
    if run.cost is None:
        return tag("section", tag("h2", "Cost"), missing("No cost yet: it is written when a training ends."))
    found = run.cost
    trained, frozen = found["trained_parameters"], found["frozen_parameters"]
    lines = {
        "training": duration(found["seconds"]),
        "samples": f"{found['samples']:,}",
        "samples per second": f"{found['samples'] / found['seconds']:,.1f}",
        "device": found["device"],
        "processes": f"{found['processes']}",
        "peak memory": f"{found['peak_memory_mb']:,.0f} MB",
        "trained parameters": f"{trained:,} ({percent(trained / (trained + frozen))} % of all)",
        "frozen parameters": f"{frozen:,}",
    }
    body = (tag("tr", tag("th", name, scope="row"), tag("td", value)) for name, value in lines.items())
    return tag("section", tag("h2", "Cost"), tag("table", tag("tbody", *body)))


def settings(run: Run) -> Html:
    heading = tag("h2", "Settings")
    if run.config is None:
        return tag("section", heading, missing("No settings: config.yaml is not there."))
    return tag("section", heading, tag("pre", run.config))


# ---------------------------------------------------------------- words


def answers(row: Row) -> list[str]:
    """The different answers, the most frequent first, with how many people gave them."""
    counts: Counter[str] = Counter(row["answers"])
    return [answer if count == 1 else f"{answer} ({count}×)" for answer, count in counts.most_common()]


def said(row: Row) -> str:
    return row["prediction"] or "(nothing)"


def score(row: Row) -> str:
    return "not scored" if row["score"] is None else percent(row["score"])


def percent(value: float | None) -> str:
    """A fraction the way papers print it."""
    return "–" if value is None else f"{100 * value:.1f}"


def duration(seconds: float) -> str:
    """Seconds as "2 h 05 min", "12 min 07 s" or "8.3 s"."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{seconds:.1f} s"
