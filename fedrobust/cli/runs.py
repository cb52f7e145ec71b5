"""`fedrobust runs`: list runs, their progress and their errors."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from fedrobust.cli.console import new_console, shown, styled
from fedrobust.errors import ConfigError

if TYPE_CHECKING:
    from fedrobust.reports.runs import Run

USUAL = ("runs", "sweeps")
COLOURS = {"completed": "green", "running": "cyan", "interrupted": "yellow", "failed": "red", "unreadable": "red"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `fedrobust runs`."""
    add = parser.add_argument
    add("folders", nargs="*", type=Path, metavar="FOLDER", help=f"folders to look in [{' and '.join(USUAL)}]")
    add("--failed", action="store_true", help="list only failed runs, with their errors")


def main(arguments: argparse.Namespace) -> int:
    """Print a row per run, newest first."""
    from fedrobust.reports.runs import find_runs

    folders = arguments.folders or [Path(name) for name in USUAL if Path(name).is_dir()]
    if not folders:
        raise ConfigError(f"no folder {' or '.join(USUAL)} here; name one: fedrobust runs FOLDER")
    runs = list(reversed(find_runs(folders)))
    console = new_console()
    if arguments.failed:
        failed = [run for run in runs if run.problem]
        for run in failed:
            console.print(styled((str(shown(run.folder.path)), "bold"), f": {run.problem}"))
        console.print(f"{len(failed)} of {len(runs)} runs failed")
        return 0
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("folder", overflow="fold")
    table.add_column("state", no_wrap=True)
    for name in ("rounds", "natural", "robust", "seconds"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("started", no_wrap=True)
    for run in runs:
        table.add_row(*_row(run))
    console.print(table)
    for run in runs:
        if run.unreadable:
            console.print(f"{shown(run.folder.path)}: {run.problem}")
        for warning in run.warnings:
            console.print(f"{shown(run.folder.path)}: {warning}", style="red")
    if any(not run.models and not run.unreadable for run in runs):
        console.print("~ so far, on the validation slice; without ~ the best model on the test set")
    return 0


def _row(run: Run) -> Iterator[str | Text]:
    """Yield folder, state, rounds, accuracies of the best model (or "~" the last on the validation slice), seconds,
    start.
    """
    yield str(shown(run.folder.path))
    yield styled((run.state, COLOURS.get(run.state, "default")))
    yield f"{run.rounds[-1]['round'] if run.rounds else 0}/{run.config.num_rounds if run.config else '?'}"
    best = run.record.get("best", {})
    measured = [row for row in run.rounds if "validation.natural_accuracy" in row]
    for name in ("natural_accuracy", f"robust_accuracy.{run.judge}"):
        if name in best:
            yield f"{best[name]:.1%}"
        elif not best and measured and f"validation.{name}" in measured[-1]:
            yield f"~{measured[-1][f'validation.{name}']:.1%}"
        else:
            yield ""
    yield f"{run.record['seconds']:.0f}" if "seconds" in run.record else ""
    yield run.record.get("started", "")[5:16].replace("T", " ")
