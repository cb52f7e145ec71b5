"""Natural against robust accuracy: what robustness costs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedrobust.reports import labels, style
from fedrobust.reports.groups import Group


def draw_scatter(groups: Sequence[Group], judge: str, path: Path) -> bool:
    """Write a figure with a point per run: its best model on the test set, robust under `judge`; False without one."""
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
