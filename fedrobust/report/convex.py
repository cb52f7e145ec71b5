"""`fedrobust convex` as rows, a table over seeds and a figure: accuracy against the radius."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from fedrobust.files import write_atomically
from fedrobust.provenance import provenance
from fedrobust.report import style
from fedrobust.report.tables import markdown_table

Row = dict[Any, Any]
KEYS = ["method", "beta", "radius"]
KINDS = ("certified (line)", "under PGD (cross)")
METHODS = {"convex": "convex programme", "pgd": "PGD training", "fgsm": "FGSM training"}


def summarise(rows: Sequence[dict[str, Any]]) -> list[Row]:
    """Mean and standard deviation over seeds, each seed the mean over its initialisations, whose own spread is last.

    A row per method, β and training radius: `clean.mean`, `clean.std` (nan for one seed) ..., `seeds`, and
    `objective.initialisations`, the standard deviation of the objective within a seed.
    """
    groups: dict[tuple[Any, ...], dict[int, list[Row]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in KEYS), {}).setdefault(row["seed"], []).append(row)
    names = [name for name, value in rows[0].items() if isinstance(value, int | float) and name not in KEYS]
    summary = []
    for keys, seeds in groups.items():
        entry: Row = dict(zip(KEYS, keys, strict=True)) | {"seeds": len(seeds)}
        for name in names:
            means = [fmean(row[name] for row in of_seed) for of_seed in seeds.values()]
            entry |= {f"{name}.mean": fmean(means), f"{name}.std": _std(means)}
        within = [_std([row["objective"] for row in of_seed]) for of_seed in seeds.values()]
        summary.append(entry | {"objective.initialisations": fmean(within)})
    return summary


def _std(values: Sequence[float]) -> float:
    """The standard deviation; nan of one value."""
    return stdev(values) if len(values) > 1 else math.nan


def table(summary: Sequence[Row], *, brief: bool) -> tuple[list[str], list[list[str]]]:
    """Head and body: accuracies in percent, certified / attacked, with standard deviations.

    brief: means of what is certified, in 80 columns.
    """
    names = [name.removesuffix(".mean") for name in summary[0] if name.endswith(".mean") and "certified" in name]
    spread = not brief
    several_betas = len({row["beta"] for row in summary}) > 1
    head = ["", *(["β"] if several_betas else []), "r", "clean", *map(_heading, names)]
    head += ["objective", "gap"] if brief else ["objective", "gap", "seconds", "neurons"]
    body = []
    for row in summary:
        method = METHODS[row["method"]]
        cells = [
            method.split()[0] if brief else method,
            *([f"{row['beta']:g}"] if several_betas else []),
            f"{row['radius']:g}",
        ]
        cells.append(_value(row, "clean", 100, 1, spread))
        for name in names:
            pair = (name,) if brief else (name, name.replace("certified", "attacked"))
            cells.append(" / ".join(_value(row, one, 100, 1, spread) for one in pair))
        cells += [_value(row, "objective", 1, 4, spread), f"{row['gap.mean']:.1%}" if row["lower_bound.mean"] else ""]
        if not brief:
            within = row["objective.initialisations"]
            cells[-2] += "" if math.isnan(within) else f" ({within:.4f})"
            cells += [_value(row, "seconds", 1, 1, spread), f"{row['neurons.mean']:.0f}"]
        body.append(cells)
    return head, body


def write_convex(folder: Path, rows: Sequence[dict[str, Any]], summary: Sequence[Row], name: str, unit: str) -> None:
    """Write results.csv, summary.md, record.json, and a figure for each β."""
    folder.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(folder / "results.csv", index=False)
    note = (
        f"Networks trained at l2 radius r, on the test samples of {name}: accuracy in percent, certified / under PGD, "
        f"mean ± standard deviation over {summary[0]['seeds']} seeds; of objectives, in parentheses, that over "
        f"initialisations within a seed. gap: to the certified lower bound on the optimum. Unit of radii: {unit}."
    )
    lines = [note, "", *markdown_table(*table(summary, brief=False))]
    write_atomically(folder / "summary.md", ("\n".join(lines) + "\n").encode())
    write_atomically(folder / "record.json", (json.dumps({**provenance(), "samples": name}, indent=2) + "\n").encode())
    betas = list(dict.fromkeys(row["beta"] for row in summary))
    for beta in betas:
        part = [row for row in summary if row["beta"] == beta]
        draw_accuracy(part, folder / (f"accuracy-beta-{beta:g}.png" if len(betas) > 1 else "accuracy.png"), unit)


def draw_accuracy(summary: Sequence[Row], path: Path, unit: str) -> None:
    """Accuracy against the l2 radius of the test, a panel per method: lines certified, crosses under PGD."""
    methods = list(dict.fromkeys(row["method"] for row in summary))
    names = [f"trained with r = {row['radius']:g}" for row in summary if row["method"] == methods[0]]
    figure = style.figure(1 + 2.9 * max(len(methods), 1.6), 3.3, [*names, *KINDS])
    panels = figure.subplots(1, len(methods), sharey=True, squeeze=False)[0]
    for axes, method in zip(panels, methods, strict=True):
        for number, row in enumerate(row for row in summary if row["method"] == method):
            _draw(axes, row, number)
        style.plain(axes, METHODS[method])
        axes.set_xlabel(f"l2 radius of the test\n({unit})", fontsize=8)
    panels[0].plot([], [], color="grey", label=KINDS[0])
    panels[0].plot([], [], color="grey", marker="x", linestyle="", label=KINDS[1])
    panels[0].set_ylabel("accuracy on test samples, %")
    style.legend_below(figure, panels)
    figure.savefig(path, dpi=style.DPI)


def _draw(axes: Axes, row: Row, number: int) -> None:
    colour = style.colour(number)
    names = [name.removesuffix(".mean") for name in row if name.startswith("certified.l2@") and name.endswith(".mean")]
    radii = [float(name.split("@")[1]) for name in names]
    mean, std = ([100 * row[f"{name}.{kind}"] for name in ("clean", *names)] for kind in ("mean", "std"))
    axes.plot([0, *radii], mean, color=colour, label=f"trained with r = {row['radius']:g}")
    if not any(map(math.isnan, std)):
        low, high = ([m + sign * s for m, s in zip(mean, std, strict=True)] for sign in (-1, 1))
        axes.fill_between([0, *radii], low, high, color=colour, alpha=0.13, linewidth=0)
    found = [100 * row[f"{name.replace('certified', 'attacked')}.mean"] for name in names]
    axes.plot(radii, found, color=colour, marker="x", markersize=5, linestyle="")


def _heading(name: str) -> str:
    """`certified.l2@0.5` → "l2 0.5", `certified.linf@0.1` → "l∞ 0.1"."""
    norm, radius = name.split(".", 1)[1].split("@")
    return f"{'l∞' if norm == 'linf' else norm} {radius}"


def _value(row: Row, name: str, factor: float, digits: int, spread: bool) -> str:
    mean, std = (factor * row[f"{name}.{kind}"] for kind in ("mean", "std"))
    return f"{mean:.{digits}f}" + (f" ± {std:.{digits}f}" if spread and not math.isnan(std) else "")
