"""`fedrobust sweep`: carry out all runs of a study, several at once, except those that are complete."""

from __future__ import annotations

import argparse
import signal
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn
from rich.table import Column, Table

from fedrobust.cli.arguments import add_settings, count, given_settings
from fedrobust.cli.console import new_console, styled, typed
from fedrobust.config.names import short_metric
from fedrobust.studies import study_names

if TYPE_CHECKING:  # help is there before PyTorch is
    from fedrobust.running.sweeping import PlannedSweep
    from fedrobust.studies.plan import PlannedRun
    from fedrobust.studies.sweep import Outcome, Sweep


class SweepDisplay:
    """A progress bar over the whole sweep with the time left, and one per running run; without a terminal, a line per
    run.
    """

    def __init__(self, console: Console, runs: Sequence[PlannedRun]) -> None:
        self._console, self._started = console, time.monotonic()
        self._total = sum(run.cost for run in runs)
        self._before = self._done = sum(run.cost for run in runs if run.complete or run.damage)
        self._tasks: dict[PlannedRun, TaskID] = {}
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._whole = self._progress.add_task("all", total=1.0, left="")

    def __enter__(self) -> SweepDisplay:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def update(self, sweep: Sweep) -> None:
        """Show the progress of the sweep."""
        shares = sweep.shares()
        for run, share in shares.items():
            if run not in self._tasks:
                self._tasks[run] = self._progress.add_task(run.label, total=1.0, left="")
                self._before += run.cost * share  # done by an earlier sweep
                if not self._console.is_terminal:
                    self._console.print(f"began {run.label}{f' at {share:.0%}' if share else ''}")
            self._progress.update(self._tasks[run], completed=share)
        for run in [run for run in self._tasks if run not in shares]:
            self._progress.remove_task(self._tasks.pop(run))
        done = self._done + sum(run.cost * share for run, share in shares.items())
        self._progress.update(self._whole, completed=done / self._total, left=self._left(done))

    def ended(self, outcome: Outcome) -> None:
        """Print a line for a run that has ended: its numbers, or its error."""
        if outcome.state == "completed":
            self._done += outcome.run.cost
            best = outcome.run.folder.record()["best"]
            accuracies = "  ".join(f"{short_metric(key)} {best[key]:.1%}" for key in best if "accuracy" in key)
            text = styled(f"{outcome.run.label}: {accuracies}  ({outcome.seconds:.0f} s; {self._left(self._done)})")
        else:
            text = styled(f"{outcome.run.label}: ", (outcome.state, "red"), f" {outcome.error}")
        self._console.print(text)

    def _left(self, done: float) -> str:
        """Return the time left, if the remaining runs are as fast as those that this sweep has done."""
        fresh = done - self._before
        if fresh <= 0:
            return ""
        seconds = (time.monotonic() - self._started) * (self._total - done) / fresh
        return f"{seconds / 3600:.1f} h left" if seconds > 5400 else f"{seconds / 60:.0f} min left"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `fedrobust sweep`."""
    parser.usage = "fedrobust sweep STUDY [--out FOLDER] [--parallel N] [--seeds 0,1,2] [--SETTING VALUE ...]"
    add = parser.add_argument
    add("study", help=f"{', '.join(study_names())}, or a TOML file")
    add("--out", type=Path, help="folder of the runs [sweeps/STUDY]")
    add("--parallel", type=count, default=0, help="number of runs at once; 0: one per core, or one per GPU [0]")
    add("--engine", choices=("auto", "local", "processes", "ray", "flwr"), default="auto", help="engine of each run")
    add("--seeds", help="seeds to use instead of the study's, such as 0,1,2")
    add(
        "--only",
        action="append",
        default=[],
        metavar="AXIS=VALUE,...",
        help="only the runs at these values of the study's axes, written as in it or as --dry-run shows them; several "
        "of one axis may be named, and the option may be repeated",
    )
    add(
        "--dry-run",
        action="store_true",
        help="print the runs, their number of images and their progress, and start nothing",
    )
    add_settings(parser)


def main(arguments: argparse.Namespace) -> int:
    """Carry out the missing runs; return exit code 1 if a run failed, 130 if the sweep was stopped."""
    from fedrobust.running.sweeping import begun, planned_sweep
    from fedrobust.storage.provenance import command_line

    plan = planned_sweep(
        arguments.study,
        given_settings(arguments),
        seeds=arguments.seeds,
        only=arguments.only,
        folder=arguments.out,
        engine=arguments.engine,
        parallel=arguments.parallel,
        dry_run=arguments.dry_run,
    )
    console = new_console()
    console.print(styled((plan.study.name, "bold"), f": {len(plan.runs)} runs, {plan.complete} of them complete"))
    if plan.unused:
        console.print(f"{plan.study.name} sets settings that no run uses: {', '.join(plan.unused)}")
    for line, number in plan.limit_cases.items():
        console.print(f"{line} ({number} of {len(plan.runs)} runs)")
    if arguments.dry_run:
        _print_plan(console, plan)
        return 0
    if plan.left:
        console.print(f"{plan.slots.parallel} at once, engine {plan.slots.engine} ({plan.why})")
    complete, states = plan.complete, Counter[str]()
    display = SweepDisplay(console, plan.runs)
    with begun(plan, display.update) as sweep, display:
        handlers = {name: signal.signal(name, lambda *_: sweep.stop()) for name in (signal.SIGINT, signal.SIGTERM)}
        try:
            for outcome in sweep:
                states[outcome.state] += 1
                display.ended(outcome)
        finally:
            for name, handler in handlers.items():
                signal.signal(name, handler)
    states["not begun"] = len(sweep.waiting)
    return _close(console, plan.folder, +states, complete, command_line())


def _close(console: Console, folder: Path, states: Counter[str], there: int, command: str) -> int:
    counts = ", ".join(f"{number} {state}" for state, number in states.items())
    console.print(f"{counts or 'nothing to do'}{f', {there} were complete before' if there else ''}")
    if rest := states["interrupted"] + states["not begun"]:
        console.print(f"interrupted, {rest} of the runs are left; resume with: {command}")
        return 130
    if states["failed"]:
        console.print("the same command runs the failed ones again")
    if states["unreadable"]:
        console.print("unreadable runs do not change: remove their folders to run them again")
    console.print(f"fedrobust report {typed(folder)} --out {typed(folder / 'report')}")
    return 1 if states["failed"] or states["unreadable"] else 0


def _print_plan(console: Console, plan: PlannedSweep) -> None:
    total = sum(run.cost for run in plan.runs)
    table = Table(Column("run", overflow="fold"), "state", Column("images", justify="right"), "share of the work")
    for run in plan.runs:
        state = "unreadable" if run.damage else run.folder.record().get("state", "")
        table.add_row(run.label, state, f"{run.images:,}", f"{run.cost / total:.1%}")
    console.print(table)
    images = sum(round(run.images * (1 - run.share_done)) for run in plan.left)
    console.print(f"{len(plan.left)} runs to do, {images:,} images to be trained on, passes counted")
