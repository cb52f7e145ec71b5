"""Who holds which labels, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fedrobust.reports.style import DPI

Style = Literal["bars", "bubbles"]
STYLES: tuple[Style, ...] = ("bars", "bubbles")
LABELLED_CLIENTS = 40  # more than that, and only some of the axis is labelled


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
