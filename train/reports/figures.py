"""Figures of the report: training curves, and previews of media files as data URIs.

loss = chart(losses(steps), Path("loss.png"))  # also written as a file
preview(Path("dog.mp4")).pictures  # four frames
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from PIL import Image

from epalm.errors import EPALMError
from epalm.media import previews
from epalm.media.container import modality_of
from epalm.media.image import open_image
from epalm.media.recipes import RECIPES
from epalm.media.video import open_video

Draw = Callable[[Axes], None]
Rows = Sequence[dict[str, Any]]  # of log.jsonl

INCHES, DPI = (3.8, 2.6), 240  # 9-point letters are legible at a width of 320 pixels
SMOOTHED = 40  # the bold loss averages over 1/40 of the training

SIDE = 400  # longer side of a thumbnail, in pixels
FRAMES = 4  # of a video
PLAYED = 300_000  # bytes; larger sounds are not embedded, only their spectrogram
SOUNDS = {  # types that browsers play
    ".aac": "audio/aac", ".flac": "audio/flac", ".m4a": "audio/mp4", ".mp3": "audio/mpeg",
    ".ogg": "audio/ogg", ".opus": "audio/ogg", ".wav": "audio/wav",
}  # fmt: skip

STYLE = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "text.parse_math": False,
}


def theme(ground: str, ink: str, grid: str) -> dict[str, Any]:
    """A chart's colours; the first two are those of report.css."""
    inks = ("text.color", "axes.labelcolor", "xtick.color", "ytick.color")
    grids = ("grid.color", "axes.edgecolor")
    grounds = ("figure.facecolor", "axes.facecolor")
    return {
        **dict.fromkeys(inks, ink),
        **dict.fromkeys(grids, grid),
        **dict.fromkeys(grounds, ground),
    }


THEMES = (theme("#ffffff", "#1c1e21", "#d9dce1"), theme("#14161a", "#e6e8eb", "#343a43"))


# ---------------------------------------------------------------- curves


def chart(draw: Draw, path: Path, inches: tuple[float, float] = INCHES) -> tuple[str, str]:
    """Draw a light version, also written to `path`, and a dark one; returns both as data URIs.

    Raises:
        EPALMError: the file cannot be written.
    """
    pngs = []
    for colours in THEMES:
        with matplotlib.style.context(["default", STYLE, colours]):
            figure = Figure(inches, DPI, layout="constrained")
            FigureCanvasAgg(figure)
            draw(figure.add_subplot())
            buffer = BytesIO()
            figure.savefig(buffer, format="png")
            pngs.append(buffer.getvalue())
    try:
        path.write_bytes(pngs[0])
    except OSError as error:
        raise EPALMError(f"{path} cannot be written ({error.strerror}).") from error
    return data_uri("image/png", pngs[0]), data_uri("image/png", pngs[1])


def losses(steps: Rows) -> Draw:
    """Every logged loss, and a moving average once there are enough of them."""
    x, y = column(steps, "step"), column(steps, "loss")
    window = len(y) // SMOOTHED

    def draw(axes: Axes) -> None:
        axes.set(title="Loss", xlabel="step")
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10], integer=True))
        if window < 2:
            axes.plot(x, y, marker=dot(y))
            return
        axes.plot(x, y, linewidth=0.6, alpha=0.35)
        mean = np.convolve(y, np.ones(window) / window, "valid")
        axes.plot(x[window // 2 :][: len(mean)], mean, color="C0", linewidth=1.6)

    return draw


def learning_rates(steps: Rows) -> Draw:
    """The learning rate of the connectors and, if it differs, of the soft prompt."""
    x, prompt = column(steps, "step"), column(steps, "prompt_lr")

    def draw(axes: Axes) -> None:
        axes.set(title="Learning rate", xlabel="step")
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10], integer=True))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{rate:g}"))
        axes.plot(x, column(steps, "lr"), label="connectors", marker=dot(x))
        if not np.isnan(prompt).all():
            axes.plot(x, prompt, "--", label="soft prompt")
            axes.legend()
        axes.set_ylim(bottom=0)

    return draw


def metrics(epochs: Rows) -> Draw:
    """Every metric × 100 by epoch."""
    splits = {row["split"] for row in epochs}
    lines: dict[str, list[tuple[int, float]]] = {}
    for row in epochs:
        for name, value in row["metrics"].items():
            label = name if len(splits) == 1 else f"{row['split']} {name}"
            lines.setdefault(label, []).append((row["epoch"], 100 * value))

    def draw(axes: Axes) -> None:
        only = next(iter(lines)) if len(lines) == 1 else ""
        axes.set(title=f"{only or 'Metrics'} × 100", xlabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        for label, points in lines.items():
            axes.plot(*zip(*points, strict=True), label=label, marker="o", markersize=3)
        if not only:
            axes.figure.legend(loc="outside lower center", ncols=3)

    return draw


def curves(
    title: str, metric: str, fractions: dict[str, float], lines: dict[str, dict[str, list[float]]]
) -> Draw:
    """A line per group over the fraction of the data, with a dot per seed."""

    def draw(axes: Axes) -> None:
        axes.set(title=title, xlabel="part of the training data", ylabel=metric, xscale="log")
        for number, (label, rows) in enumerate(lines.items()):
            rows = {row: values for row, values in rows.items() if values}
            x = [fractions[row] for row in rows]
            axes.plot(x, [np.mean(v) for v in rows.values()], label=label, color=f"C{number}", marker="_")
            for at, values in zip(x, rows.values(), strict=True):
                axes.plot([at] * len(values), values, "o", color=f"C{number}", markersize=3, alpha=0.6)
        axes.set_xticks(list(fractions.values()), list(fractions))
        axes.minorticks_off()
        axes.set_ylim(bottom=0)
        axes.figure.legend(loc="outside lower center", ncols=1)

    return draw


def dots(title: str, metric: str, groups: dict[str, dict[str, list[float]]]) -> Draw:
    """For each row of a table, a dot per seed and a bar at the mean; a line marks the first row's mean."""

    def draw(axes: Axes) -> None:
        names: list[str] = []
        first = None
        for group, rows in groups.items():
            names.append(group)
            for row, values in rows.items():
                if values:
                    mean = float(np.mean(values))
                    first = mean if first is None else first
                    axes.plot(values, [len(names)] * len(values), "o", color="C0", markersize=3.5, alpha=0.6)
                    axes.plot(mean, len(names), "|", color="C0", markersize=11, markeredgewidth=2)
                names.append(row)
        if first is not None:
            axes.axvline(first, color="C1", linewidth=0.8, linestyle="--")
        axes.set_yticks(range(len(names)), names)
        for tick, name in zip(axes.yaxis.get_major_ticks(), names, strict=True):
            heading = name in groups
            tick.label1.set_fontweight("bold" if heading else "normal")
            tick.tick1line.set_visible(not heading)
        axes.set(title=title, xlabel=metric)
        axes.set_ylim(len(names), -1)
        axes.set_xlim(left=0)
        axes.grid(visible=False, axis="y")

    return draw


def column(rows: Rows, name: str) -> np.ndarray:
    """One column of all rows as numbers; null becomes NaN."""
    return np.array([row[name] for row in rows], dtype=float)


def dot(values: np.ndarray) -> str:
    """Marker that makes a line with a single point visible."""
    return "o" if len(values) == 1 else ""


# ---------------------------------------------------------------- media


@dataclass(frozen=True)
class Preview:
    """Preview of a media file: data URIs of a picture or of a video's frames, and of its sound."""

    pictures: list[str]
    sound: str | None = None


def preview(path: Path, modality: str | None = None) -> Preview:
    """A thumbnail of an image, frames of a video, or a sound's spectrogram and, if small, the sound itself.

    Args:
        modality: "audio" to preview the sound of a video.

    Raises:
        EPALMError: the file is missing, damaged or none of the three.
    """
    found = modality_of(path)
    if found == "image":
        return Preview([thumbnail(open_image(path))])
    if found == "video" and modality != "audio":
        frames = open_video(path, FRAMES, "uniform").frames
        return Preview([thumbnail(Image.fromarray(frame), SIDE // 2) for frame in frames])
    spectrogram, _ = previews.listen(RECIPES["audio"]["epalm-audio-16k"], path)
    kind = SOUNDS.get(path.suffix.lower())
    played = data_uri(kind, path.read_bytes()) if kind and path.stat().st_size < PLAYED else None
    return Preview([jpeg(spectrogram)], played)


def thumbnail(image: Image.Image, side: int = SIDE) -> str:
    """Upright RGB image -> data URI of a JPEG whose longer side has at most `side` pixels."""
    image = image.copy()
    image.thumbnail((side, side))
    return jpeg(image)


def jpeg(image: Image.Image) -> str:
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return data_uri("image/jpeg", buffer.getvalue())


def data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{b64encode(content).decode()}"
