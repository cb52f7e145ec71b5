"""How evenly accuracy falls on the clients: a heat map of their own held-out images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize

from fedrobust.reports import labels, style
from fedrobust.reports.groups import Group
from fedrobust.reports.runs import Run
from fedrobust.storage.run_folder import CLIENTS

WRITTEN_CLIENTS = 12  # more than that, and the cells have no room for their number


def draw_clients(groups: Sequence[Group], judge: str, path: Path) -> bool:
    """Write a figure: a row per group, its clients from the worst to the best, natural and under `judge`.

    Each client was asked on its own held-out images in the last round that asked any. Over several seeds the place in
    the order is averaged, because a client's number means nothing from one seed's partition to the next; of a single
    run the small figure is the client's number. False where no client was asked; groups without clients are left out.
    """
    groups = [group for group in groups if len(_ordered(group.runs, "natural_accuracy")[0])]
    panels = {
        name: [_ordered(group.runs, name) for group in groups]
        for name in ("natural_accuracy", f"robust_accuracy.{judge}")
    }
    panels = {name: rows for name, rows in panels.items() if any(len(values) for values, _ in rows)}
    if not panels:
        return False
    clients = max(len(values) for rows in panels.values() for values, _ in rows)
    names = [group.name for group in groups]
    width = 1.2 + 0.065 * max(map(len, names)) + len(panels) * min(0.6 + 0.5 * clients, 5.0)
    figure = style.figure(max(width, 5), 1.1 + 0.34 * len(groups), [])
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    colours = Normalize(0, 100 * max(values.max(initial=0.01) for rows in panels.values() for values, _ in rows))
    for panel, (name, rows) in zip(axes, panels.items(), strict=True):
        _draw(panel, rows, clients, colours)
        panel.set_title(labels.heading(name), fontsize=10)
    axes[0].set_yticks(range(len(names)), names, fontsize=8)
    bar = figure.colorbar(axes[-1].images[0], ax=list(axes), aspect=30, pad=0.01)
    bar.set_label("accuracy, %", fontsize=8)
    bar.outline.set_visible(False)  # type: ignore[operator]
    figure.savefig(path, dpi=style.DPI)
    return True


def _draw(axes: Axes, rows: Sequence[tuple[np.ndarray, list[int]]], clients: int, colours: Normalize) -> None:
    grid = np.full((len(rows), clients), np.nan)
    for row, (values, _) in enumerate(rows):
        grid[row, : len(values)] = 100 * values
    axes.imshow(grid, aspect="auto", cmap="cividis", norm=colours)
    if clients <= WRITTEN_CLIENTS:
        for row, (values, numbers) in enumerate(rows):
            for place, value in enumerate(grid[row, : len(values)]):
                ink = "black" if colours(value) > 0.5 else "white"
                axes.text(place, row, f"{value:.0f}", ha="center", va="center", color=ink, fontsize=8)
                if numbers:
                    small = {"ha": "right", "va": "bottom", "color": ink, "fontsize": 5, "alpha": 0.8}
                    axes.text(place + 0.47, row + 0.47, str(numbers[place]), **small)
    axes.set_xticks([0, clients - 1] if clients > 1 else [0], ["worst", "best"][: min(clients, 2)], fontsize=8)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _ordered(runs: Sequence[Run], name: str) -> tuple[np.ndarray, list[int]]:
    """Accuracies from the worst client to the best, the mean over runs; the clients' numbers where it is one run."""
    found = [clients for run in runs if (clients := _last_asked(run, name))]
    if not found:
        return np.array([]), []
    shortest = min(map(len, found))
    values = np.mean([[value for value, _ in clients[:shortest]] for clients in found], axis=0)
    return values, [number for _, number in found[0]] if len(found) == 1 else []


def _last_asked(run: Run, name: str) -> list[tuple[float, int]]:
    """(accuracy, client) of the last round in which clients evaluated, in ascending order."""
    rows = [row for row in run.folder.read(CLIENTS) if row["phase"] == "evaluate" and name in row]
    last = max((row["round"] for row in rows), default=0)
    return sorted((row[name], row["client"]) for row in rows if row["round"] == last)
