"""Heads of `fedrobust convex RUN`: the table, and accuracy under attack against the radius of training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from fedrobust.config.names import short_metric
from fedrobust.reports import style
from fedrobust.reports.convex import METHODS, Row, over_seeds, write_tables

UNIT = "the median distance of features to the boundary of the run's own head"
OWN = "own head (dotted)"


def write_heads(folder: Path, rows: Sequence[Row], summary: Sequence[Row], name: str, origin: dict[str, Any]) -> None:
    """Write results.csv, summary.md, record.json with `origin`, and a figure for each β."""
    note = (
        f"Heads on the features of {name}, trained at l2 radius r in feature space: accuracy of the whole network in "
        "percent, natural and under attacks on pixels, and of its features, certified in feature space, which says "
        f"nothing of pixels; {over_seeds(summary)}. Unit of radii: {UNIT}. gap: to the certified lower bound on the "
        "optimum; – where there is none."
    )
    write_tables(folder, rows, summary, note, {**origin, "run": name})
    betas = list(dict.fromkeys(row["beta"] for row in summary if row["beta"] is not None))
    for beta in betas:
        part = [row for row in summary if row["beta"] in (beta, None)]
        draw_heads(part, folder / (f"heads-beta-{beta:g}.png" if len(betas) > 1 else "heads.png"))


def draw_heads(summary: Sequence[Row], path: Path) -> None:
    """Accuracy of the whole network against the head's radius, a panel per kind; dotted: the run's own head."""
    own = next(row for row in summary if row["method"] == "own")
    names = [name.removesuffix(".mean") for name in own if "_accuracy" in name and name.endswith(".mean")]
    methods = list(dict.fromkeys(row["method"] for row in summary if row["radius"] is not None))
    figure = style.figure(1 + 2.9 * max(len(methods), 1.6), 3.0, [*map(short_metric, names), OWN])
    panels = figure.subplots(1, len(methods), sharey=True, squeeze=False)[0]
    for axes, method in zip(panels, methods, strict=True):
        part = [row for row in summary if row["method"] == method]
        for number, name in enumerate(names):
            _draw(axes, part, own, name, number)
        style.plain(axes, METHODS[method])
        axes.set_xlabel("l2 radius of training in feature space\n(1: median distance to the own head's boundary)")
        axes.xaxis.label.set_fontsize(8)
    panels[-1].plot([], [], color="grey", linestyle=":", label=OWN)
    panels[0].set_ylabel("accuracy on test images, %")
    style.legend_below(figure, panels)
    figure.savefig(path, dpi=style.DPI)


def _draw(axes: Axes, rows: Sequence[Row], own: Row, name: str, number: int) -> None:
    colour = style.colour(number)
    mean, std = ([100 * row[f"{name}.{kind}"] for row in rows] for kind in ("mean", "std"))
    bars = [0 if math.isnan(value) else value for value in std]
    axes.errorbar([row["radius"] for row in rows], mean, bars, color=colour, marker="o", label=short_metric(name))
    axes.axhline(100 * own[f"{name}.mean"], color=colour, linestyle=":")
