"""What sharing buys: accuracy against the size of the pool."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from fedrobust.reports import labels, style


def draw_sharing(summary: pd.DataFrame, judge: str, path: Path) -> bool:
    """Write a figure of the best models: natural accuracy above, below that under the attack `judge`; a panel per skew.

    A colour per setting, dashes per pool mode, a band of one standard deviation over seeds. Without a pool the mode
    means nothing: that point begins the line of every mode. What has no clients has no skew: it is in every panel.
    False where the pool does not vary, or no run has finished.
    """
    if "pool" not in summary:
        return False
    best = [row for row in summary.to_dict("records") if row["model"] == "best"]
    accuracies = [name for name in ("natural_accuracy", f"robust_accuracy.{judge}") if f"{name}.mean" in summary]
    if not accuracies:
        return False
    skews = list(dict.fromkeys(row["skew"] for row in best if row.get("skew"))) or [""]
    lines = list(_lines(best, [str(key) for key in summary.columns[: list(summary).index("model")]]))
    figure = style.figure(1 + 2.8 * max(len(skews), 1.6), 0.4 + 2.5 * len(accuracies), [line.name for line in lines])
    axes = figure.subplots(len(accuracies), len(skews), sharex=True, sharey="row", squeeze=False)
    for row, accuracy in zip(axes, accuracies, strict=True):
        for panel, skew in zip(row, skews, strict=True):
            for line in lines:
                _draw(panel, line, [point for point in line.points if point.get("skew", "") in ("", skew)], accuracy)
            style.plain(panel, skew if panel in axes[0] else "")
        row[0].set_ylabel(f"{labels.heading(accuracy)}, %")
    for panel in axes[-1]:
        panel.set_xlabel("pool, % of the training set")
        panel.set_xticks(sorted({100 * row["pool"] for row in best}))
    style.legend_below(figure, axes.ravel())
    figure.savefig(path, dpi=style.DPI)
    return True


@dataclass(frozen=True)
class _Line:
    """A setting under a pool mode: rows of the summary by ascending pool, numbers for its colour and its dashes."""

    name: str
    points: Sequence[dict[Any, Any]]
    setting: int
    mode: int


def _lines(best: Sequence[dict[Any, Any]], columns: Sequence[str]) -> Iterator[_Line]:
    others = [key for key in columns if key not in ("pool", "skew", "mode")]
    modes = list(dict.fromkeys(row["mode"] for row in best if row.get("mode"))) or [""]
    settings: dict[tuple[Any, ...], list[dict[Any, Any]]] = {}
    for row in best:
        settings.setdefault(tuple(row[key] for key in others), []).append(row)
    for setting, (values, rows) in enumerate(settings.items()):
        for mode in [mode for mode in modes if any(row.get("mode") == mode for row in rows)] or [""]:
            points = [row for row in rows if row.get("mode", "") in ("", mode)]
            words = [labels.phrase(key, value) for key, value in zip(others, values, strict=True)]
            name = ", ".join(filter(None, [*words, mode]))
            yield _Line(name, sorted(points, key=lambda row: row["pool"]), setting, modes.index(mode) if mode else 0)


def _draw(axes: Axes, line: _Line, points: Sequence[dict[Any, Any]], accuracy: str) -> None:
    pool, mean, std = (
        [100 * point[key] for point in points] for key in ("pool", f"{accuracy}.mean", f"{accuracy}.std")
    )
    colour = style.colour(line.setting)
    axes.plot(pool, mean, color=colour, linestyle=style.LINES[line.mode], marker="o", markersize=4, label=line.name)
    low, high = ([m + sign * s for m, s in zip(mean, std, strict=True)] for sign in (-1, 1))
    axes.fill_between(pool, low, high, color=colour, alpha=0.13, linewidth=0)
