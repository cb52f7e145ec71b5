"""The figures of a set of runs, each with its caption."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fedrobust.reports import labels
from fedrobust.reports.comparisons import draw_ranking, draw_scatter, draw_sharing
from fedrobust.reports.curves import draw_curves, draw_drift
from fedrobust.reports.partitions import FILES as PARTITIONS
from fedrobust.reports.partitions import draw_clients, draw_partitions
from fedrobust.reports.results import Overview

# file → title and text, in the order of a page
WORDS = {
    "sharing.png": (
        "Accuracy against the size of the pool",
        "Natural and {robust} accuracy of the best models on the test set against the size of the pool. Lines are "
        "means over seeds, bands one standard deviation.",
    ),
    "ranking.png": (
        "Settings compared",
        "Natural and {robust} accuracy of the best models on the test set, in order of the second. A ring is a run, "
        "the dot the mean over seeds, the bar one standard deviation to each side.",
    ),
    "scatter.png": (
        "Natural against robust",
        "Natural against {robust} accuracy on the test set, a point per run's best model.",
    ),
    "curves.png": (
        "Learning curves",
        "Accuracy on the validation slice over the rounds. Lines are means over seeds, bands one standard deviation "
        "if they do not hide each other; a dot is the best round of a single run.",
    ),
    "clients.png": (
        "Clients",
        "Natural and {robust} accuracy on the clients' own held-out images, from the worst client to the best, when "
        "clients were last asked. For one run the small figure is the client's number; over several, places in the "
        "order are averaged.",
    ),
    "drift.png": (
        "Drift",
        "Client drift: the size of the updates, and their agreement: 1 if all are equal, 0 if they cancel. Lines "
        "are means over seeds, bands one standard deviation.",
    ),
}


@dataclass(frozen=True)
class Drawn:
    """A picture in a file; `text` also describes it to readers who cannot see it."""

    path: Path
    title: str
    text: str


def draw_figures(overview: Overview, folder: Path) -> list[Drawn]:
    """Write the figures for which the runs have data, in the order of a page; delete those of an earlier report."""
    for earlier in (*WORDS, *PARTITIONS):
        (folder / earlier).unlink(missing_ok=True)
    groups, judge = overview.groups, overview.judge
    if not groups:
        return []
    draw = {
        "sharing.png": lambda path: draw_sharing(overview.summary, judge, path),
        "curves.png": lambda path: draw_curves(groups, path),
        "ranking.png": lambda path: draw_ranking(groups, judge, path),
        "scatter.png": lambda path: draw_scatter(groups, judge, path),
        "clients.png": lambda path: draw_clients(groups, judge, path),
        "drift.png": lambda path: draw_drift(groups, path),
    }
    robust = labels.heading(f"robust_accuracy.{judge}")
    drawn = [
        Drawn(folder / name, title, text.format(robust=robust))
        for name, (title, text) in WORDS.items()
        if draw[name](folder / name)
    ]
    return drawn + [
        Drawn(path, "Labels of each client", f"Class counts of each client, pool included: {text}.")
        for path, text in draw_partitions(groups, folder)
    ]
