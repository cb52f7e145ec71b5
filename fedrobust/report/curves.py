"""Learning curves: accuracy of the global model over the rounds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from fedrobust.records import ROUNDS, RunFolder


def draw_curves(runs: Sequence[RunFolder], path: Path) -> None:
    """Write a figure: a panel for natural accuracy and one per attack, a line per run, on the validation slice.

    An attack that some of the runs do not have gets none.
    The dot is the best round: the one whose model a record calls "best".
    """
    tables = {folder.record().get("name", folder.path.name): pd.DataFrame(folder.read(ROUNDS)) for folder in runs}
    first, *others = tables.values()
    columns = [c for c in first if c.startswith("validation.") and "accuracy" in c and all(c in t for t in others)]
    figure = Figure(figsize=(1 + 3.2 * len(columns), 3.4), layout="constrained")
    panels = figure.subplots(1, len(columns), sharex=True, sharey=True, squeeze=False)[0]
    for axes, column in zip(panels, columns, strict=True):
        for number, ((name, table), folder) in enumerate(zip(tables.items(), runs, strict=True)):
            curve = table[["round", column]].dropna()
            axes.plot(curve["round"], 100 * curve[column], color=f"C{number}", label=name)
            best = curve[curve["round"] == folder.record().get("best", {}).get("round")]
            axes.plot(best["round"], 100 * best[column], "o", color=f"C{number}", markersize=5)
        title = (
            column.removeprefix("validation.").replace("robust_accuracy.", "").replace("natural_accuracy", "natural")
        )
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("round")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("accuracy on the validation slice, %")
    panels[0].set_ylim(bottom=0)
    panels[-1].legend(frameon=False, fontsize=8, loc="best")
    figure.savefig(path, dpi=150)
