"""Settings in order of their robust accuracy, with the spread over seeds: which of them differ at all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedrobust.reports import labels, style
from fedrobust.reports.groups import Group

LEAST, MOST = 3, 40  # settings


def draw_ranking(groups: Sequence[Group], judge: str, path: Path) -> bool:
    """Write a figure with a row per setting: its best models on the test set, natural and under the attack `judge`.

    A ring is a run, the dot the mean over them, the bar one standard deviation to each side. False with fewer than 3
    settings that have such models, or more than 40.
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
    spread = values.std(ddof=1) if len(values) > 1 else None
    axes.errorbar(values.mean(), height, xerr=spread, fmt="o", markersize=5, color=style.colour(0), capsize=2)
    if len(values) > 1:
        axes.plot(values, [height] * len(values), "o", markersize=4, color=style.colour(1), fillstyle="none")


def _best(group: Group, name: str) -> list[float]:
    return [best[name] for run in group.runs if name in (best := run.record.get("best", {}))]
