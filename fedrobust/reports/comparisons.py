"""Figures that compare settings: accuracy against the pool, natural against robust accuracy, a ranking."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from fedrobust.reports import labels, style
from fedrobust.reports.groups import Group
from fedrobust.reports.results import standard_deviation

LEAST, MOST = 3, 40  # settings


def draw_sharing(summary: pd.DataFrame, judge: str, path: Path) -> bool:
    """Write a figure of the best models: natural accuracy above, accuracy under the attack `judge` below; a panel per
    skew.

    A colour per setting, dashes per pool mode, a band of one standard deviation over seeds. Without a pool the mode has
    no meaning: that point begins the line of every mode. Central runs have no skew: they are in every panel. Return
    False if the pool does not vary, or no run has finished.
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
    """A setting with a pool mode: rows of the summary by ascending pool, numbers for its colour and its dashes."""

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


def draw_scatter(groups: Sequence[Group], judge: str, path: Path) -> bool:
    """Write a figure with a point per run: its best model on the test set, robust under `judge`; return False without
    one.
    """
    key = f"robust_accuracy.{judge}"
    points = {
        group.name: [
            (100 * best["natural_accuracy"], 100 * best[key])
            for run in group.runs
            if key in (best := run.record.get("best", {}))
        ]
        for group in groups
    }
    if not any(points.values()):
        return False
    figure = style.figure(5.4 if len(points) <= 8 else 8, 4.2, list(points))
    axes = figure.subplots()
    for number, (name, pairs) in enumerate(points.items()):
        natural, robust = zip(*pairs, strict=True) if pairs else ((), ())
        axes.scatter(natural, robust, s=36, label=name, alpha=0.85, linewidths=0, **style.marker(number))
    style.plain(axes)
    axes.set_xlabel("natural accuracy of the best model, %")
    axes.set_ylabel(f"{labels.heading(key)} accuracy, %")
    style.legend_below(figure, [axes])
    figure.savefig(path, dpi=style.DPI)
    return True


def draw_ranking(groups: Sequence[Group], judge: str, path: Path) -> bool:
    """Write a figure with a row per setting: its best models on the test set, natural and under the attack `judge`.

    A ring is a run, the dot the mean over them, the bar one standard deviation to each side. Return False with fewer
    than 3 settings that have such models, or more than 40.
    """
    names = ("natural_accuracy", f"robust_accuracy.{judge}")
    rows = [(group.name, [_best(group, name) for name in names]) for group in groups]
    rows = sorted((row for row in rows if all(row[1])), key=lambda row: np.mean(row[1][1]))
    if not LEAST <= len(rows) <= MOST:
        return False
    longest = max(len(name) for name, _ in rows)
    figure = style.figure(5.6 + 0.075 * longest, 0.9 + 0.27 * len(rows), ())
    for axes, name, place in zip(figure.subplots(1, 2, sharey=True), names, range(2), strict=True):
        for height, (_, values) in enumerate(rows):
            _row(axes, 100 * np.array(values[place]), height)
        style.plain(axes, f"{labels.heading(name)}, %")
    figure.axes[0].set_yticks(range(len(rows)), [name for name, _ in rows], fontsize=8)
    figure.savefig(path, dpi=style.DPI)
    return True


def _row(axes: Any, values: np.ndarray, height: int) -> None:
    spread = standard_deviation(values) if len(values) > 1 else None
    axes.errorbar(values.mean(), height, xerr=spread, fmt="o", markersize=5, color=style.colour(0), capsize=2)
    if len(values) > 1:
        axes.plot(values, [height] * len(values), "o", markersize=4, color=style.colour(1), fillstyle="none")


def _best(group: Group, name: str) -> list[float]:
    return [best[name] for run in group.runs if name in (best := run.record.get("best", {}))]
