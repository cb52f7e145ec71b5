"""What sharing buys: accuracy against the size of the pool."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes

from fedrobust.report import labels, style


def draw_sharing(summary: pd.DataFrame, judge: str, path: Path) -> bool:
    """Write a figure of the best models: natural accuracy above, below that under the attack `judge`; a panel per skew.

    A colour per setting, dashes per pool mode, a band of one standard deviation over seeds. Without a pool the mode
    means nothing: that point begins the line of every mode. False where the pool does not vary.
    """
    if "pool" not in summary:
        return False
    best = summary[summary["model"] == "best"]
    rows = [name for name in ("natural_accuracy", f"robust_accuracy.{judge}") if f"{name}.mean" in summary]
    skews = list(best["skew"].unique()) if "skew" in best else [""]
    series = list(_series(best))
    names = [name for name, *_ in series]
    figure = style.figure(1 + 2.8 * max(len(skews), 1.6), 0.4 + 2.5 * len(rows), names)
    axes = figure.subplots(len(rows), len(skews), sharex=True, sharey="row", squeeze=False)
    for row, accuracy in enumerate(rows):
        for column, skew in enumerate(skews):
            panel = axes[row, column]
            for name, number, dashes, points in series:
                here = points[points["skew"] == skew] if skew else points
                _line(panel, here, accuracy, name, {"color": style.colour(number), "linestyle": style.LINES[dashes]})
            style.plain(panel, skew if row == 0 else "")
        axes[row, 0].set_ylabel(f"{labels.heading(accuracy)}, %")
    for panel in axes[-1]:
        panel.set_xlabel("pool, % of the training set")
        panel.set_xticks(sorted(100 * best["pool"].unique()))
    style.legend_below(figure, axes.ravel())
    figure.savefig(path, dpi=style.DPI)
    return True


def _line(axes: Axes, points: pd.DataFrame, accuracy: str, name: str, look: dict[str, str]) -> None:
    pool, mean, std = (100 * points[key] for key in ("pool", f"{accuracy}.mean", f"{accuracy}.std"))
    axes.plot(pool, mean, marker="o", markersize=4, label=name, **look)
    if std.notna().any():
        axes.fill_between(pool, mean - std, mean + std, color=look["color"], alpha=0.13, linewidth=0)


def _series(best: pd.DataFrame) -> Iterator[tuple[str, int, int, pd.DataFrame]]:
    """Name, number of the setting, number of the mode and points of each line."""
    columns = [str(key) for key in best.columns[: best.columns.get_loc("model")]]
    others = [key for key in columns if key not in ("pool", "skew", "mode")]
    modes: Sequence[str] = [mode for mode in best["mode"].unique() if mode] if "mode" in best else [""]
    settings = best[others].drop_duplicates().to_dict("records")
    for number, setting in enumerate(settings):
        points = best
        for key, value in setting.items():
            points = points[points[key] == value]
        for dashes, mode in enumerate(modes):
            words = [labels.phrase(key, value) for key, value in setting.items()] + [mode]
            chosen = points[points["mode"].isin(["", mode])] if mode else points
            if chosen["pool"].any() or dashes == 0:
                yield ", ".join(filter(None, words)), number, dashes, chosen.sort_values("pool")
