"""python -m train report RUN_DIR: one page about a training, from what `fit` and `evaluate` wrote so far.

The page, RUN_DIR/report.html, embeds its pictures and sounds and loads nothing from elsewhere; the curves are
also written to RUN_DIR/loss.png, learning_rate.png and metrics.png. Its template is page.html.j2.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from epalm.errors import EPALMError
from epalm.files import write_atomic
from train.metrics.intervals import Paired
from train.progress import bar
from train.reports.run import Row, Run, choose, mix, read
from train.scores import compare, in_words, scores_of_run

__all__ = ["LISTED", "choose", "read", "write_report"]

LISTED = 100  # failures
FREQUENT = 5  # wrong predictions
REFERENCES = 5  # of a caption

PAGES = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,  # data must not become markup
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def write_report(folder: Path, media: Path = Path(), against: Path | None = None) -> Path:
    """Write the page and the curves of a run into its folder; returns the page's path.

    Args:
        media: base folder for relative media paths in the predictions.
        against: another run's folder, to compare predictions item by item.

    Raises:
        EPALMError: the folder is not a run or cannot be written, a file in it is damaged, or the other run
            has no predictions for the same items.
    """
    run = read(folder)
    charts, no_charts = curves(run, folder)
    chosen = {name: choose(rows) for name, rows in run.predictions.items()}
    count = sum(len(rows) for kinds in chosen.values() for rows in kinds.values())
    with bar("reading media of the samples", count, " files") as shown:
        predictions = [samples(name, chosen[name], run, media, shown) for name in run.predictions]
    text = PAGES.get_template("page.html.j2").render(
        name=folder.resolve().name,
        progress=progress(run),
        charts=charts,
        no_charts=no_charts,
        results=[result(name, found, run, against) for name, found in run.metrics.items()],
        predictions=predictions,
        cost=cost(run),
        config=run.config,
    )
    page = folder / "report.html"
    write_atomic(page, [text.lstrip()])
    return page


# ---------------------------------------------------------------- the page's parts


def progress(run: Run) -> str:
    """The progress of the training, in one sentence."""
    if not run.steps:
        return "No training is logged here." if run.metrics or run.predictions else "No step is logged yet."
    last = run.steps[-1]
    state = "Trained" if run.cost else "Still training, or stopped"
    where = f"step {last['step']:,}, epoch {last['epoch']:.3g}, loss {last['loss']:.3f}"
    return f"{state}: {where}, {duration(last['seconds'])}."


def curves(run: Run, folder: Path) -> tuple[list[tuple[str, tuple[str, str]]], list[str]]:
    """Charts of loss, learning rate and metrics, and sentences about missing ones."""
    from train.reports import figures  # brings PyTorch and matplotlib, which --help need not wait for

    draws, missing = [], []
    if run.steps:
        draws += [
            ("Loss by step", figures.losses(run.steps), "loss.png"),
            ("Learning rate by step", figures.learning_rates(run.steps), "learning_rate.png"),
        ]
    else:
        missing.append("No loss curve yet: log.jsonl has no step.")
    if run.epochs:
        draws.append(("Metrics by epoch", figures.metrics(run.epochs), "metrics.png"))
    else:
        missing.append("No metric per epoch yet: no epoch was evaluated.")
    with bar("drawing", len(draws), " charts") as shown:
        charts = []
        for title, draw, name in draws:
            charts.append((title, figures.chart(draw, folder / name)))
            shown.update()
    return charts, missing


def result(name: str, found: Row, run: Run, against: Path | None) -> dict[str, Any]:
    """An evaluated split: this run, the paper, and the blind and text-only baselines."""
    spans = found.get("intervals") or {}
    columns = {"paper": "paper", "another item’s media": "blind", "no media": "text_only"}
    others: dict[str, dict[str, float]] = {
        title: found[key] for title, key in columns.items() if found.get(key) is not None
    }
    notes = [f"{found['count']:,} items{' of ' + found['manifest'] if 'manifest' in found else ''}."]
    if spans:
        notes.append("95 %: interval by bootstrap over the items.")
    metric = found.get("metric", "")
    compared = {key: Paired(**(row | {"interval": tuple(row["interval"])})) for key, row in
                found.get("compared", {}).items()}  # fmt: skip
    if against is not None and not metric:
        raise EPALMError(f"metrics-{name}.json does not name its metric: evaluate the run again first.")
    if against is not None and name in run.predictions:
        own = {row["id"]: row["score"] for row in run.predictions[name]}
        if other := compare(own, scores_of_run(against, list(own), metric)):
            compared[str(against)] = other
    notes += [in_words(metric, key, paired) for key, paired in compared.items()]
    return {
        "name": name,
        "columns": ["metric × 100", "this run", *(["95 %"] if spans else []), *others],
        "metrics": {
            title: [
                percent(value),
                *([interval(spans.get(title))] if spans else []),
                *(percent(values.get(title)) for values in others.values()),
            ]
            for title, value in found["metrics"].items()
        },
        "notes": [*notes, *found["absent"].values()],
        "no_samples": None
        if name in run.predictions
        else f"No samples: predictions-{name}.jsonl is not there.",
    }


def samples(name: str, chosen: dict[str, list[Row]], run: Run, media: Path, shown: Any) -> dict[str, Any]:
    """Sample predictions with their media, and the failures."""
    rows = run.predictions[name]
    cards: dict[str, list[Row]] = {}
    for kind, some in chosen.items():
        cards[kind] = []
        for row in some:
            cards[kind].append(card(row, media, run.modality))
            shown.update()
    return {
        "name": name,
        "count": f"{len(rows):,} predictions." if rows else None,
        "unfinished": None
        if name in run.metrics
        else f"The evaluation has not finished: metrics-{name}.json is not there yet.",
        "chosen": cards,
        "failures": failures(rows),
    }


def card(row: Row, media: Path, modality: str | None) -> Row:
    """A prediction with its media."""
    return {
        "id": row["id"],
        "shown": preview(row["media"], media, modality),
        "score": "not scored" if row["score"] is None else percent(row["score"]),
        "prompt": row["prompt"],
        "said": said(row),
        "answers": answers(row)[:REFERENCES],
    }


def preview(name: str, media: Path, modality: str | None) -> Row:
    """A media file's preview, or what is wrong with it."""
    from train.reports import figures  # as above

    path = media / name
    try:
        found = figures.preview(path, modality)
    except EPALMError as error:
        gone = path.name + str(error).removeprefix(str(path))
        return {"name": path.name, "gone": gone, "pictures": [], "sound": None}
    return {"name": path.name, "gone": None, "pictures": found.pictures, "sound": found.sound}


def failures(rows: Sequence[Row]) -> dict[str, Any]:
    """Predictions with score 0, and the most frequent ones among them."""
    scored = [row for row in rows if row["score"] is not None]
    failed = [row for row in mix(scored) if row["score"] == 0]
    often = Counter(said(row) for row in failed).most_common(FREQUENT)
    share = percent(len(failed) / len(scored)) if scored else ""
    listed = "" if len(failed) <= LISTED else f", {LISTED} of them listed"
    return {
        "missing": None if scored else "Not scored: this split has no answers.",
        "frequent": ", ".join(f"“{text}” {count:,}×" for text, count in often),
        "share": f"{len(failed):,} of {len(scored):,} predictions ({share} %) have the score 0{listed}",
        "rows": [
            {
                "said": said(row),
                "answers": "; ".join(answers(row)[:REFERENCES]),
                "about": " · ".join(filter(None, (row["prompt"], Path(row["media"]).name))),
            }
            for row in failed[:LISTED]
        ],
    }


def cost(run: Run) -> dict[str, str] | None:
    """Time, memory and parameters of the training."""
    if run.cost is None:
        return None
    found = run.cost
    trained, frozen = found["trained_parameters"], found["frozen_parameters"]
    return {
        "training": duration(found["seconds"]),
        "samples": f"{found['samples']:,}",
        "samples per second": f"{found['samples'] / found['seconds']:,.1f}",
        "device": found["device"],
        "processes": f"{found['processes']}",
        "peak memory": f"{found['peak_memory_mb']:,.0f} MB",
        "trained parameters": f"{trained:,} ({percent(trained / (trained + frozen))} % of all)",
        "frozen parameters": f"{frozen:,}",
    }


# ---------------------------------------------------------------- words


def answers(row: Row) -> list[str]:
    """The distinct answers, most frequent first, with their counts."""
    counts: Counter[str] = Counter(row["answers"])
    return [answer if count == 1 else f"{answer} ({count}×)" for answer, count in counts.most_common()]


def said(row: Row) -> str:
    return row["prediction"] or "(nothing)"


def percent(value: float | None) -> str:
    """A fraction as papers print it, × 100."""
    return "–" if value is None else f"{100 * value:.1f}"


def interval(span: Sequence[float] | None) -> str:
    return "–" if span is None else f"[{percent(span[0])}, {percent(span[1])}]"


def duration(seconds: float) -> str:
    """Seconds as "2 h 05 min", "12 min 07 s" or "8.3 s"."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{seconds:.1f} s"
