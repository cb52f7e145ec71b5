"""Figures of clients: the labels that each holds, and the accuracy on each one's own images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fedrobust.config import Data
from fedrobust.data import DATASETS, class_numbers
from fedrobust.reports import labels, style
from fedrobust.reports.groups import Group
from fedrobust.reports.runs import Run
from fedrobust.reports.style import DPI

Style = Literal["bars", "bubbles"]
STYLES: tuple[Style, ...] = ("bars", "bubbles")
LABELLED_CLIENTS = 40  # more than that, and only some of the axis is labelled

WRITTEN_CLIENTS = 12  # more than that, and the cells have no room for their number


def draw_partition(
    counts: NDArray[np.int64],
    emd: NDArray[np.float64],
    class_names: Sequence[str],
    path: Path,
    *,
    style: Style = "bars",
    title: str = "",
) -> None:
    """Write a figure of the clients' class counts ``[K, C]`` (pool included; emd ``[K]``), format by its suffix.

    "bars": one stacked bar per client, its length the client's number of images, with its earth mover's distance.
    "bubbles": one dot per client and class, its area the number of images; shows absent classes at a glance.
    """
    clients, classes = counts.shape
    figure = Figure(figsize=_size(clients, classes, style), layout="constrained")
    axes = figure.add_subplot()
    if style == "bars":
        _bars(axes, counts, emd, class_names)
    else:
        _bubbles(axes, counts, class_names)
    if title:
        axes.set_title(title, loc="left", fontsize=10)
    figure.savefig(path, dpi=DPI)


def _size(clients: int, classes: int, style: Style) -> tuple[float, float]:
    if style == "bars":
        return 8.0, min(1.6 + 0.3 * clients, 24.0)
    return min(2.5 + 0.3 * clients, 24.0), 1.5 + 0.35 * classes


def _bars(axes: Axes, held: NDArray[np.int64], emd: NDArray[np.float64], class_names: Sequence[str]) -> None:
    clients, classes = held.shape
    rows, left = np.arange(clients), np.zeros(clients)
    for number in range(classes):
        counts = held[:, number]
        axes.barh(rows, counts, left=left, height=0.85, color=_colour(number, classes), label=class_names[number])
        left += counts
    axes.set(xlabel="images", ylabel="client", ylim=(clients - 0.5, -0.5), xlim=(0, left.max() * 1.12))
    axes.set_yticks(rows[:: _stride(clients)])
    if clients <= LABELLED_CLIENTS:
        for row, (end, distance) in enumerate(zip(left, emd, strict=True)):
            axes.text(end, row, f" EMD {distance:.2f}", va="center", fontsize=7, color="0.35")
    axes.spines[["top", "right"]].set_visible(False)
    if classes <= 20:
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8)


def _bubbles(axes: Axes, counts: NDArray[np.int64], class_names: Sequence[str]) -> None:
    clients, classes = counts.shape
    client, number = np.meshgrid(np.arange(clients), np.arange(classes), indexing="ij")
    area = 260 * counts / counts.max()
    colours = [_colour(int(c), classes) for c in number.ravel()]
    axes.scatter(client.ravel(), number.ravel(), s=area.ravel(), c=colours, linewidths=0)
    axes.set(xlabel="client", xlim=(-0.7, clients - 0.3), ylim=(classes - 0.4, -0.6))
    axes.set_xticks(np.arange(clients)[:: _stride(clients)])
    axes.set_yticks(range(classes), class_names if classes <= 20 else [str(c) for c in range(classes)], fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _stride(clients: int) -> int:
    return max(1, -(-clients // LABELLED_CLIENTS))


def _colour(number: int, classes: int) -> tuple[float, ...]:
    name = "tab10" if classes <= 10 else "tab20" if classes <= 20 else "viridis"
    colours = matplotlib.colormaps[name]
    return colours(number if classes <= 20 else number / (classes - 1))


FILES = tuple(f"partition-{number}.png" for number in range(1, 7))


def draw_partitions(groups: Sequence[Group], folder: Path) -> list[tuple[Path, str]]:
    """Write FILES, one per distinct partition as far as they suffice; return each with its caption.

    The first run of every group goes before the second of any, so that settings are seen before seeds.
    """
    runs = [(place, run) for group in groups for place, run in enumerate(group.runs)]
    drawn: dict[str, tuple[Path, str]] = {}
    for _, run in sorted(runs, key=lambda entry: entry[0]):
        if run.config is None or not run.partition or len(drawn) == len(FILES):
            continue
        same = str(run.partition)
        if same not in drawn:
            path, title = folder / FILES[len(drawn)], labels.partition(run.config)
            _draw(pd.DataFrame(run.partition), run.config.data, title, path)
            drawn[same] = path, title
    return list(drawn.values())


def _draw(table: pd.DataFrame, data: Data, title: str, path: Path) -> None:
    counts = table[[column for column in table if str(column).startswith("class_")]].to_numpy()
    names = [str(number) for number in range(counts.shape[1])]
    if data.name in DATASETS:
        known = DATASETS[data.name].class_names
        names = [known[number] for number in class_numbers(data.classes, known)]
    style = "bars" if len(counts) <= LABELLED_CLIENTS else "bubbles"
    draw_partition(counts, table["emd"].to_numpy(), names, path, style=style, title=title)


def draw_clients(groups: Sequence[Group], judge: str, path: Path) -> bool:
    """Write a figure: a row per group, its clients from the worst to the best, natural and under `judge`.

    Each client evaluated on its own held-out images in the last round that asked any. Over several seeds the place in
    the order is averaged, because a client's number has no meaning across partitions; for a single run the small figure
    is the client's number. Return False if no client was asked; groups without clients are left out.
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
        _draw_map(panel, rows, clients, colours)
        panel.set_title(labels.heading(name), fontsize=10)
    axes[0].set_yticks(range(len(names)), names, fontsize=8)
    bar = figure.colorbar(axes[-1].images[0], ax=list(axes), aspect=30, pad=0.01)
    bar.set_label("accuracy, %", fontsize=8)
    bar.outline.set_visible(False)  # type: ignore[operator]
    figure.savefig(path, dpi=style.DPI)
    return True


def _draw_map(axes: Axes, rows: Sequence[tuple[np.ndarray, list[int]]], clients: int, colours: Normalize) -> None:
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
    """Return accuracies from the worst client to the best, the mean over runs, and the clients' numbers for one run."""
    found = [clients for run in runs if (clients := _last_asked(run, name))]
    if not found:
        return np.array([]), []
    shortest = min(map(len, found))
    values = np.mean([[value for value, _ in clients[:shortest]] for clients in found], axis=0)
    return values, [number for _, number in found[0]] if len(found) == 1 else []


def _last_asked(run: Run, name: str) -> list[tuple[float, int]]:
    """Return (accuracy, client) of the last round in which clients evaluated, in ascending order."""
    rows = [row for row in run.clients if row["phase"] == "evaluate" and name in row]
    last = max((row["round"] for row in rows), default=0)
    return sorted((row[name], row["client"]) for row in rows if row["round"] == last)
