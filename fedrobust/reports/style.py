"""The style of figures: colours that colour-blind readers can distinguish, and few lines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's, without the yellow that white paper swallows
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
LINES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DPI = 150


def colour(number: int) -> str:
    """Return the colour of the series of that number, the same in every figure."""
    return COLOURS[number % len(COLOURS)]


def line(number: int) -> dict[str, Any]:
    """Return colour and dashes of a series; they repeat after 28."""
    return {"color": colour(number), "linestyle": LINES[number // len(COLOURS) % len(LINES)]}


def marker(number: int) -> dict[str, Any]:
    """Return colour and shape of a series; they repeat after 49."""
    return {"color": colour(number), "marker": MARKERS[(number + number // len(COLOURS)) % len(MARKERS)]}


def plain(axes: Axes, title: str = "") -> None:
    """Set a light grid and no frame."""
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def figure(width: float, height: float, names: Sequence[str]) -> Figure:
    """Return a figure with panels of that height in inches, and room for a legend of these names under them."""
    rows = -(-len(names) // _columns(width, names)) if len(names) > 1 else 0
    return Figure(figsize=(width, height + 0.19 * rows), layout="constrained")


def legend_below(figure: Figure, panels: Iterable[Axes]) -> None:
    """Add one legend for all panels, under them, in as many columns as fit."""
    found = [pair for axes in panels for pair in zip(*axes.get_legend_handles_labels(), strict=True)]
    handles = {name: handle for handle, name in found}
    if len(handles) > 1:
        columns = _columns(figure.get_figwidth(), list(handles))
        place = {"loc": "outside lower center", "ncols": columns}
        figure.legend(handles.values(), handles.keys(), **place, frameon=False, fontsize=8)


def _columns(width: float, names: Sequence[str]) -> int:
    return max(1, min(len(names), int(width / (0.6 + 0.062 * max(map(len, names))))))
