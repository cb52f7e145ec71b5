"""The results of `fedrobust convex`: rows, tables over seeds and figures of accuracy against the radius."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from fedrobust.config import WORST_CASE
from fedrobust.config.names import short_metric
from fedrobust.reports import style
from fedrobust.reports.results import mean_and_std, standard_deviation
from fedrobust.reports.tables import markdown_table
from fedrobust.storage.files import write_atomically

Row = dict[Any, Any]
KEYS = ["method", "beta", "radius"]
KINDS = ("certified (line)", "under PGD (cross)")
NORMS = {"l2": "l2", "linf": "l∞"}
METHODS = {
    "convex": "convex programme",
    "pgd": "PGD training",
    "fgsm": "FGSM training",
    "own": "own head",
    "sam": "SAM fine-tuned head",
    "polynomial": "polynomial head",
    "relu": "ReLU head",
}
ACCURACIES = ("clean", "natural_accuracy", "robust_accuracy.", "certified.")

UNIT = "the median distance of features to the boundary of the run's own head"
OWN = "own head (dotted)"


def summarise(rows: Sequence[dict[str, Any]]) -> list[Row]:
    """Return mean and standard deviation over seeds, each seed the mean over its initialisations, whose own spread is
    last.

    One row per method, β and training radius: `clean.mean`, `clean.std` (nan for one seed) ..., `seeds`, and, if there
    is an objective, `objective.initialisations`, its standard deviation within a seed.
    """
    groups: dict[tuple[Any, ...], dict[int, list[Row]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in KEYS), {}).setdefault(row["seed"], []).append(row)
    summary = []
    for keys, seeds in groups.items():
        entry: Row = dict(zip(KEYS, keys, strict=True)) | {"seeds": len(seeds)}
        first = next(iter(seeds.values()))[0]
        names = [name for name, value in first.items() if isinstance(value, int | float) and name not in KEYS]
        for name in names:
            means = [fmean(row[name] for row in of_seed) for of_seed in seeds.values()]
            entry |= {f"{name}.mean": fmean(means), f"{name}.std": standard_deviation(means)}
        if "objective" in first:
            within = [standard_deviation([row["objective"] for row in of_seed]) for of_seed in seeds.values()]
            entry["objective.initialisations"] = fmean(within)
        summary.append(entry)
    return summary


def over_seeds(summary: Sequence[Row]) -> str:
    """Return "mean ± standard deviation over 5 seeds" or "one seed"."""
    seeds = summary[0]["seeds"]
    return f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "one seed"


def table(summary: Sequence[Row], *, brief: bool) -> tuple[list[str], list[list[str]]]:
    """Return head and body: accuracies in percent, certified / attacked if both exist, with standard deviations.

    brief: fit 80 columns: only means, only the certified accuracy if both exist, no worst case, and objectives only if
    every row has one.
    """
    names = [name.removesuffix(".mean") for name in summary[0] if name.endswith(".mean")]
    names = [name for name in names if name.startswith(ACCURACIES) and not (brief and name.endswith(WORST_CASE))]
    several_betas = len({row["beta"] for row in summary} - {None}) > 1
    body = [_cells(row, names, several_betas, brief) for row in summary]
    head = ["", *(["β"] if several_betas else []), "r", *map(_heading, names), "objective", "gap"]
    if not brief:
        return [*head, "seconds", "neurons"], body
    if all("objective.mean" in row for row in summary):
        return head, body
    return [*head[:-2], head[-1]], [[*cells[:-2], cells[-1]] for cells in body]


def _cells(row: Row, names: Sequence[str], several_betas: bool, brief: bool) -> list[str]:
    """Return a row of the table; – for values that a method does not have."""
    method, spread = METHODS[row["method"]], not brief
    keys = ["beta", "radius"] if several_betas else ["radius"]
    cells = [method.split()[0] if brief else method, *("–" if row[key] is None else f"{row[key]:g}" for key in keys)]
    for name in names:
        pair = [name, name.replace("certified", "attacked")] if spread and name.startswith("certified") else [name]
        there = [_value(row, one, 100, 1, spread) for one in dict.fromkeys(pair) if f"{one}.mean" in row]
        cells.append(" / ".join(there) or "–")
    value = _value(row, "objective", 1, 4, spread)
    within = row.get("objective.initialisations", math.nan)
    cells.append(value if brief or math.isnan(within) else f"{value} ({within:.4f})")
    cells.append(f"{row['gap.mean']:.1%}" if row.get("lower_bound.mean") else "–")
    if not brief:
        cells += [_value(row, "seconds", 1, 1, spread), f"{row['neurons.mean']:.0f}" if "neurons.mean" in row else "–"]
    return cells


def write_convex(
    folder: Path,
    rows: Sequence[Row],
    summary: Sequence[Row],
    name: str,
    origin: dict[str, Any],
    *,
    unit: str,
    norm: str,
) -> None:
    """Write results.csv, summary.md, record.json with `origin`, and a figure for each β."""
    note = (
        f"Networks trained at {NORMS[norm]} radius r, on the test samples of {name}: accuracy in percent, certified / "
        f"under PGD, {over_seeds(summary)}; of objectives, in parentheses, that "
        "over initialisations within a seed. gap: to the certified lower bound on the optimum, of ReLU networks that "
        f"over the sampled patterns; – if there is none. Unit of radii: {unit}."
    )
    write_tables(folder, rows, summary, note, {**origin, "samples": name})
    betas = list(dict.fromkeys(row["beta"] for row in summary))
    for beta in betas:
        part = [row for row in summary if row["beta"] == beta]
        draw_accuracy(part, folder / (f"accuracy-beta-{beta:g}.png" if len(betas) > 1 else "accuracy.png"), unit, norm)


def write_tables(folder: Path, rows: Sequence[Row], summary: Sequence[Row], note: str, record: dict[str, Any]) -> None:
    """Write results.csv, summary.md and record.json into an existing folder."""
    pd.DataFrame(rows).to_csv(folder / "results.csv", index=False)
    lines = [note, "", *markdown_table(*table(summary, brief=False))]
    write_atomically(folder / "summary.md", ("\n".join(lines) + "\n").encode())
    write_atomically(folder / "record.json", (json.dumps(record, indent=2) + "\n").encode())


def draw_accuracy(summary: Sequence[Row], path: Path, unit: str, norm: str) -> None:
    """Draw accuracy against the radius of the test in `norm`, a panel per method: lines certified, crosses PGD."""
    methods = list(dict.fromkeys(row["method"] for row in summary))
    names = [f"trained with r = {row['radius']:g}" for row in summary if row["method"] == methods[0]]
    figure = style.figure(1 + 2.9 * max(len(methods), 1.6), 3.3, [*names, *KINDS])
    panels = figure.subplots(1, len(methods), sharey=True, squeeze=False)[0]
    for axes, method in zip(panels, methods, strict=True):
        for number, row in enumerate(row for row in summary if row["method"] == method):
            _draw(axes, row, number, norm)
        style.plain(axes, METHODS[method])
        axes.set_xlabel(f"{NORMS[norm]} radius of the test\n({unit})", fontsize=8)
    panels[0].plot([], [], color="grey", label=KINDS[0])
    panels[0].plot([], [], color="grey", marker="x", linestyle="", label=KINDS[1])
    panels[0].set_ylabel("accuracy on test samples, %")
    style.legend_below(figure, panels)
    figure.savefig(path, dpi=style.DPI)


def _draw(axes: Axes, row: Row, number: int, norm: str) -> None:
    colour = style.colour(number)
    names = [name.removesuffix(".mean") for name in row if name.endswith(".mean")]
    names = [name for name in names if name.startswith(f"certified.{norm}@")]
    radii = [float(name.split("@")[1]) for name in names]
    mean, std = ([100 * row[f"{name}.{kind}"] for name in ("clean", *names)] for kind in ("mean", "std"))
    axes.plot([0, *radii], mean, color=colour, label=f"trained with r = {row['radius']:g}")
    if not any(map(math.isnan, std)):
        low, high = ([m + sign * s for m, s in zip(mean, std, strict=True)] for sign in (-1, 1))
        axes.fill_between([0, *radii], low, high, color=colour, alpha=0.13, linewidth=0)
    found = [100 * row[f"{name.replace('certified', 'attacked')}.mean"] for name in names]
    axes.plot(radii, found, color=colour, marker="x", markersize=5, linestyle="")


def _heading(name: str) -> str:
    """Return a column's head: `certified.l2@0.5` → "l2 0.5", `certified.linf@0.1` → "l∞ 0.1"."""
    if not name.startswith("certified"):
        return short_metric(name)
    norm, radius = name.split(".", 1)[1].split("@")
    return f"{NORMS.get(norm, norm)} {radius}"


def _value(row: Row, name: str, factor: float, digits: int, spread: bool) -> str:
    shown = row if spread else {**row, f"{name}.std": None}
    return mean_and_std(shown, name, factor=factor, digits=digits)


def write_heads(folder: Path, rows: Sequence[Row], summary: Sequence[Row], name: str, origin: dict[str, Any]) -> None:
    """Write results.csv, summary.md, record.json with `origin`, and a figure for each β."""
    note = (
        f"Heads on the features of {name}, trained at l2 radius r in feature space: accuracy of the whole network in "
        "percent, natural and under attacks on pixels, and of its features, certified in feature space, which does "
        f"not hold for pixels; {over_seeds(summary)}. Unit of radii: {UNIT}. gap: to the certified lower bound on the "
        "optimum; – if there is none."
    )
    write_tables(folder, rows, summary, note, {**origin, "run": name})
    betas = list(dict.fromkeys(row["beta"] for row in summary if row["beta"] is not None))
    for beta in betas:
        part = [row for row in summary if row["beta"] in (beta, None)]
        draw_heads(part, folder / (f"heads-beta-{beta:g}.png" if len(betas) > 1 else "heads.png"))


def draw_heads(summary: Sequence[Row], path: Path) -> None:
    """Draw accuracy of the whole network against the head's radius, a panel per kind; dotted: the run's head."""
    own = next(row for row in summary if row["method"] == "own")
    names = [name.removesuffix(".mean") for name in own if "_accuracy" in name and name.endswith(".mean")]
    methods = list(dict.fromkeys(row["method"] for row in summary if row["radius"] is not None))
    figure = style.figure(1 + 2.9 * max(len(methods), 1.6), 3.0, [*map(short_metric, names), OWN])
    panels = figure.subplots(1, len(methods), sharey=True, squeeze=False)[0]
    for axes, method in zip(panels, methods, strict=True):
        part = [row for row in summary if row["method"] == method]
        for number, name in enumerate(names):
            _draw_heads(axes, part, own, name, number)
        style.plain(axes, METHODS[method])
        axes.set_xlabel("l2 radius of training in feature space\n(1: median distance to the own head's boundary)")
        axes.xaxis.label.set_fontsize(8)
    panels[-1].plot([], [], color="grey", linestyle=":", label=OWN)
    panels[0].set_ylabel("accuracy on test images, %")
    style.legend_below(figure, panels)
    figure.savefig(path, dpi=style.DPI)


def _draw_heads(axes: Axes, rows: Sequence[Row], own: Row, name: str, number: int) -> None:
    colour = style.colour(number)
    mean, std = ([100 * row[f"{name}.{kind}"] for row in rows] for kind in ("mean", "std"))
    bars = [0 if math.isnan(value) else value for value in std]
    axes.errorbar([row["radius"] for row in rows], mean, bars, color=colour, marker="o", label=short_metric(name))
    axes.axhline(100 * own[f"{name}.mean"], color=colour, linestyle=":")
