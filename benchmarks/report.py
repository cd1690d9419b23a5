"""The results as tables and figures: `python -m benchmarks.report` rewrites README.md from results/*.json."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt  # noqa: E402

FOLDER = Path(__file__).parent
README = FOLDER / "README.md"
TOPICS = ("decoding", "limit", "training", "files", "start", "serving", "load", "precision", "gpu")
BEGIN, END = "<!-- results: written by benchmarks/report.py -->", "<!-- end of results -->"
COLOURS = ("#9aa5b1", "#c98b3b", "#0f766e", "#4f46e5", "#b91c1c")


def table(data: dict[str, Any]) -> list[str]:
    """A topic's heading, machine and rows in Markdown."""
    machine = data["machine"]
    where = [
        machine.get("gpu"),
        machine["processor"],
        f"{machine['threads']} threads",
        f"torch {machine['torch']}",
    ]
    lines = [
        f"### {data['title']}",
        "",
        f"{', '.join(part for part in where if part)}; {data['date']}, commit {data['commit'] or 'unknown'}.",
        "",
        "| | | median | spread | |",
        "|---|---|---|---|---|",
    ]
    before = ""
    for row in data["rows"]:
        samples = row["samples"]
        shown = "" if row["case"] == before else row["case"]
        before = row["case"]
        ratio = "" if row["ratio"] is None else f"**{row['ratio']:.2f} ×** {row['baseline']}"
        note = ", ".join(part for part in (ratio, row["note"]) if part)
        spread = f"{number(min(samples))} to {number(max(samples))}" if len(samples) > 1 else ""
        middle = number(statistics.median(samples))
        lines.append(f"| {shown} | {row['variant']} | {middle} {row['unit']} | {spread} | {note} |")
    lines += ["", *(f"{note}  " for note in data["notes"])]
    return lines


def number(value: float) -> str:
    """Three digits that count."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def figure(data: dict[str, Any], path: Path) -> bool:
    """Speed relative to each case's baseline, one group of bars per case; False where there is nothing."""
    rows = [row for row in data["rows"] if row["ratio"] is not None]
    if not rows:
        return False
    cases = list(dict.fromkeys(row["case"] for row in rows))
    kinds = list(dict.fromkeys(row["variant"] for row in rows))
    height = 0.8 / len(kinds)
    drawn, axes = plt.subplots(figsize=(8, 0.5 + 0.16 * len(cases) * (len(kinds) + 1)))
    for k, kind in enumerate(kinds):
        own = [
            (cases.index(row["case"]) + k * height, row["ratio"]) for row in rows if row["variant"] == kind
        ]
        bars = axes.barh([y for y, _ in own], [x for _, x in own], height, color=COLOURS[k % 5], label=kind)
        axes.bar_label(bars, fmt="%.1f", fontsize=7, padding=2)
    axes.set_yticks([i + 0.4 - height / 2 for i in range(len(cases))], cases, fontsize=8)
    axes.invert_yaxis()
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel("times as fast as the first variant of each case")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
    drawn.tight_layout()
    drawn.savefig(path, metadata={"Date": None})
    plt.close(drawn)
    return True


def main() -> None:
    lines = [BEGIN, ""]
    (FOLDER / "figures").mkdir(exist_ok=True)
    for topic in TOPICS:
        path = FOLDER / "results" / f"{topic}.json"
        if not path.exists():
            continue
        data = json.loads(path.read_text(encoding="utf-8"))
        lines += table(data)
        if figure(data, FOLDER / "figures" / f"{topic}.svg"):
            lines += ["", f"![{data['title']}: speed against the baselines](figures/{topic}.svg)"]
        lines.append("")
    text = README.read_text(encoding="utf-8")
    head, _, rest = text.partition(BEGIN)
    tail = rest.partition(END)[2]
    README.write_text(head + "\n".join([*lines, END]) + tail, encoding="utf-8")
    print(f"Wrote {README}")


if __name__ == "__main__":
    main()
