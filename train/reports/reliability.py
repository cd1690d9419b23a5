"""The reliability diagram: how often answers are right, by their confidence.

chart(reliability_diagram({"pictures": bins}), Path("reliability.png"))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from train.calibration import Bin, calibration_error
from train.reports.figures import Draw

LARGEST = 9  # size of the largest bin's dot, in points


def reliability_diagram(adapters: Mapping[str, Sequence[Bin]]) -> Draw:
    """A line per adapter; the diagonal is perfect calibration. Larger dots stand for more answers."""

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color="0.6", linewidth=0.8, linestyle="--")
        for number, (name, bins) in enumerate(adapters.items()):
            filled = [b for b in bins if b.count]
            fullest = max((b.count for b in filled), default=1)
            colour, label = f"C{number}", f"{name} ({calibration_error(bins):.2f})"
            said, right = [b.confidence for b in filled], [b.right for b in filled]
            axes.plot(said, right, color=colour, linewidth=1, label=label)
            for b in filled:
                size = LARGEST * (b.count / fullest) ** 0.5
                axes.plot(b.confidence, b.right, "o", color=colour, markersize=max(size, 2))
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="right")
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.legend(loc="upper left", title="calibration error", title_fontsize=8)

    return draw
