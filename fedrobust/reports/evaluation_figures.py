"""Pictures of an evaluation: accuracy against epsilon, accuracy by class, and what the perturbations look like."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from fedrobust.config import WORST_CASE
from fedrobust.reports.labels import heading

CHOSEN = 8  # images of the contact sheet


def draw_curve(summary: dict[str, Any], epsilon: float, norm: str, path: Path) -> None:
    """Robust accuracy under PGD-20 against epsilon, and the suite's worst case at the epsilon that was asked for."""
    radii, accuracy = zip(*summary["checks"]["curve"], strict=True)
    worst = summary["accuracy"][WORST_CASE]
    figure = Figure(figsize=(5.2, 3.6), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(radii))
    axes.plot(places, [100 * share for share in accuracy], "o-", color="C0", label="PGD-20")
    at = next(place for place, radius in zip(places, radii, strict=True) if np.isclose(radius, epsilon))
    spread = [[100 * (worst["accuracy"] - worst["low"])], [100 * (worst["high"] - worst["accuracy"])]]
    axes.errorbar(
        [at], [100 * worst["accuracy"]], yerr=spread, fmt="s", color="C3", capsize=3, label="worst case, 95 %"
    )
    axes.set_xticks(places, _written(radii))
    axes.set_xlabel(f"epsilon ({norm})")
    axes.set_ylabel("accuracy, %")
    axes.set_ylim(0, 100)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)


def draw_classes(summary: dict[str, Any], path: Path) -> None:
    """Bars per class: natural accuracy, and behind it what no attack of the suite broke."""
    rows = summary["per_class"]
    figure = Figure(figsize=(1.5 + 0.62 * len(rows), 3.4), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(rows))
    for offset, name, colour in ((-0.2, "natural", "#b8c4d6"), (0.2, WORST_CASE, "C3")):
        axes.bar(places + offset, [100 * row[name] for row in rows], 0.4, color=colour, label=heading(name))
    axes.set_xticks(places, [row["class"] for row in rows], rotation=40, ha="right", fontsize=8)
    axes.set_ylabel("accuracy, %")
    axes.set_ylim(0, 100)
    axes.grid(axis="y", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(frameon=False, fontsize=8, ncols=2, loc="outside upper right")
    figure.savefig(path, dpi=150)


def draw_examples(
    images: np.ndarray,
    examples: np.ndarray,
    labels: Sequence[str],
    predicted: Sequence[str],
    path: Path,
) -> None:
    """A contact sheet of broken images, a column each: clean, adversarial, and the perturbation around mid-grey.

    The perturbation is scaled so that its largest pixel change fills the range, by the factor under its row.

    Args:
        images, examples: [n, C, H, W] in [0, 1].
        labels, predicted: class names, true and as classified under attack.
    """
    count = len(images)
    figure = Figure(figsize=(0.9 + 1.15 * max(count, 1), 3.9), layout="constrained")
    if not count:
        figure.text(0.5, 0.5, "no image was broken", ha="center", va="center")
        figure.savefig(path, dpi=150)
        return
    change = examples - images
    factor = 0.5 / max(float(np.abs(change).max()), 1e-12)
    rows = {
        "clean": images,
        "adversarial": examples,
        f"perturbation × {factor:.0f}": 0.5 + factor * change,
    }
    axes = figure.subplots(3, count, squeeze=False)
    for row, (title, shown) in enumerate(rows.items()):
        for column in range(count):
            panel = axes[row, column]
            pixels = shown[column].transpose(1, 2, 0).clip(0, 1)
            panel.imshow(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels, cmap="gray", vmin=0, vmax=1)
            panel.set_xticks([])
            panel.set_yticks([])
            panel.spines[:].set_visible(False)
            if row < 2:
                panel.set_title((labels, predicted)[row][column], fontsize=8)
        axes[row, 0].set_ylabel(title, fontsize=8)
    figure.savefig(path, dpi=150)


def _written(radii: Sequence[float]) -> list[str]:
    """8/255 and so on where all are so many 255ths, else numbers."""
    if all(abs(255 * radius - round(255 * radius)) < 1e-6 for radius in radii):
        return [f"{255 * radius:.0f}/255" for radius in radii]
    return [f"{radius:.3g}" for radius in radii]
