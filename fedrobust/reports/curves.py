"""Lines over the rounds: accuracy of the global model on the validation slice, and the clients' drift."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from fedrobust.reports import labels, style
from fedrobust.reports.groups import Group
from fedrobust.reports.runs import Run

DRIFT = {"drift.update_norm": "mean norm of the clients' updates", "drift.cosine": "cosine of updates and their mean"}
BANDS = 6  # lines of a panel; with more, bands would hide them


def draw_curves(groups: Sequence[Group], path: Path) -> bool:
    """Write a figure: a column for natural accuracy and one per attack, a row per skew; return False without data.

    A line is the mean over the group's runs, its band the standard deviation. The dot, on the line of a single run, is
    the best round, whose model a record calls "best".
    """
    prefix = "validation."
    present = [key for key in _columns(groups) if key.startswith(prefix) and "accuracy" in key]
    present.sort(key=lambda key: (not key.endswith("natural_accuracy"), key.endswith("worst-case")))
    panels = {key: f"{labels.heading(key.removeprefix(prefix))}, %" for key in present}
    return _draw(groups, panels, path, percent=True)


def draw_drift(groups: Sequence[Group], path: Path) -> bool:
    """Write a figure of the size of the clients' updates and their agreement; return False if no run measured it."""
    present = _columns(groups)
    return _draw(groups, {key: title for key, title in DRIFT.items() if key in present}, path, percent=False)


def _draw(groups: Sequence[Group], panels: Mapping[str, str], path: Path, *, percent: bool) -> bool:
    rows = _by_skew([group for group in groups if any(len(_curves(_comparable(group), key)) > 1 for key in panels)])
    if not rows:
        return False
    names = list(dict.fromkeys(group.name for row in rows.values() for group in row))
    figure = style.figure(1 + 3.2 * max(len(panels), 1.6), 0.6 + 2.5 * len(rows), names)
    axes = figure.subplots(len(rows), len(panels), sharex=True, sharey="all" if percent else "col", squeeze=False)
    for (skew, row), line_of_panels in zip(rows.items(), axes, strict=True):
        for panel, (column, title) in zip(line_of_panels, panels.items(), strict=True):
            for group in row:
                _line(panel, group, column, names.index(group.name), percent=percent, band=len(row) <= BANDS)
            style.plain(panel, title if panel in axes[0] else "")
        line_of_panels[0].set_ylabel(skew or ("no clients" if len(rows) > 1 else ""))
    for panel in axes[-1]:
        panel.set_xlabel("round")
        panel.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    if percent:
        axes[0, 0].set_ylim(bottom=0)
    style.legend_below(figure, axes.ravel())
    figure.savefig(path, dpi=style.DPI)
    return True


def _by_skew(groups: Sequence[Group]) -> dict[str, list[Group]]:
    """Return the groups of each skew, with the skew removed from their names; one row if it does not vary."""
    rows: dict[str, list[Group]] = {}
    for group in groups:
        values = dict(group.values)
        rows.setdefault(str(values.pop("skew", "")), []).append(replace(group, values=values))
    return rows


def _line(axes: Axes, group: Group, column: str, number: int, *, percent: bool, band: bool) -> None:
    runs = _comparable(group)
    curve = (100 if percent else 1) * _curves(runs, column)
    mean, std = curve.mean(axis=1), curve.std(axis=1)
    axes.plot(mean.index, mean, **style.line(number), label=group.name)
    if len(runs) > 1 and band:
        axes.fill_between(mean.index, mean - std, mean + std, color=style.colour(number), alpha=0.15, linewidth=0)
    best = runs[0].record.get("best", {}).get("round")
    if len(runs) == 1 and percent and best in mean.index:
        axes.plot(best, mean[best], "o", color=style.colour(number), markersize=5)


def _comparable(group: Group) -> Sequence[Run]:
    """Return the group's completed runs; if it has none, all its runs."""
    return [run for run in group.runs if run.state == "completed"] or group.runs


def _curves(runs: Sequence[Run], column: str) -> pd.DataFrame:
    """Return a column per run and a row per round for which all of them have the value."""
    series = [pd.Series({row["round"]: row[column] for row in run.rounds if column in row}) for run in runs]
    return pd.concat(series, axis=1, join="inner").sort_index().astype(float)


def _columns(groups: Sequence[Group]) -> dict[str, None]:
    """Return the columns that a run has in two rounds or more: a single point is not a line."""
    counts = (Counter(key for row in run.rounds for key in row) for group in groups for run in group.runs)
    return {key: None for count in counts for key in count if count[key] > 1}
