"""Lines over the rounds: accuracy of the global model on the validation slice, and the clients' drift."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes

from fedrobust.report import labels, style
from fedrobust.report.groups import Group
from fedrobust.report.runs import Run

DRIFT = {"drift.update_norm": "norm of the clients' updates", "drift.cosine": "cosine of their updates with the mean"}


def draw_curves(groups: Sequence[Group], path: Path) -> bool:
    """Write a figure: a panel for natural accuracy and one per attack, a line per group; False where there is none.

    A line is the mean over the group's runs, its band the standard deviation. The dot, on the line of a single run, is
    the best round: the one whose model a record calls "best".
    """
    prefix = "validation."
    names = sorted(
        {key: None for key in _columns(groups) if key.startswith(prefix) and "accuracy" in key},
        key=lambda key: "natural" not in key,
    )
    panels = {name: labels.heading(name.removeprefix(prefix)) for name in names}
    return _draw(groups, panels, path, scale=100, ylabel="accuracy on the validation slice, %")


def draw_drift(groups: Sequence[Group], path: Path) -> bool:
    """Write a figure of how far the clients' updates go and how well they agree; False where no run measured it."""
    present = _columns(groups)
    return _draw(groups, {key: title for key, title in DRIFT.items() if key in present}, path)


def _draw(
    groups: Sequence[Group], panels: Mapping[str, str], path: Path, *, scale: float = 1, ylabel: str = ""
) -> bool:
    if not panels:
        return False
    width = 1 + 3.2 * len(panels)
    figure = style.figure(width, 3.2, [group.name for group in groups])
    shared = bool(ylabel)
    axes = figure.subplots(1, len(panels), sharex=True, sharey=shared, squeeze=False)[0]
    for panel, (column, title) in zip(axes, panels.items(), strict=True):
        for number, group in enumerate(groups):
            _line(panel, group, column, scale, number)
        style.plain(panel, title)
        panel.set_xlabel("round")
    axes[0].set_ylabel(ylabel)
    if shared:
        axes[0].set_ylim(bottom=0)
    style.legend_below(figure, axes[0])
    figure.savefig(path, dpi=style.DPI)
    return True


def _line(axes: Axes, group: Group, column: str, scale: float, number: int) -> None:
    runs = _comparable(group)
    curve = scale * _curves(runs, column)
    mean, std = curve.mean(axis=1), curve.std(axis=1)
    axes.plot(mean.index, mean, **style.line(number), label=group.name)
    if curve.shape[1] > 1:
        axes.fill_between(mean.index, mean - std, mean + std, color=style.colour(number), alpha=0.15, linewidth=0)
    elif scale != 1 and (best := runs[0].record.get("best", {}).get("round")) in mean.index:
        axes.plot(best, mean[best], "o", color=style.colour(number), markersize=5)


def _comparable(group: Group) -> Sequence[Run]:
    """The group's completed runs; where it has none, those that there are."""
    return [run for run in group.runs if run.state == "completed"] or group.runs


def _curves(runs: Sequence[Run], column: str) -> pd.DataFrame:
    """A column per run, a row per round that all of them have the value of."""
    series = [pd.Series({row["round"]: row[column] for row in run.rounds if column in row}) for run in runs]
    return pd.concat(series, axis=1, join="inner").sort_index().astype(float)


def _columns(groups: Sequence[Group]) -> dict[str, None]:
    return {key: None for group in groups for run in group.runs for row in run.rounds for key in row}
