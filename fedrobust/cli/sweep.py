"""`fedrobust sweep`: all runs of a study, several at once, except those that are complete."""

from __future__ import annotations

import argparse
import json
import signal
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn
from rich.table import Column, Table

from fedrobust.cli.arguments import count
from fedrobust.cli.console import new_console, styled, typed
from fedrobust.cli.settings import add_settings, given_settings
from fedrobust.config.names import short_metric
from fedrobust.errors import ConfigError
from fedrobust.storage.files import write_atomically
from fedrobust.studies import load_study, study_names
from fedrobust.studies.plan import PlannedRun
from fedrobust.studies.sweep import Outcome, Sweep

if TYPE_CHECKING:  # help is there before PyTorch is
    from fedrobust.studies.plan import PlannedRun


class SweepDisplay:
    """A bar over the whole sweep with the time left, one per run at work; without a terminal, a line per run."""

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
        """How far the sweep is."""
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
        """A line for a run that has ended: its numbers, or its error."""
        if outcome.state == "completed":
            self._done += outcome.run.cost
            best = outcome.run.folder.record()["best"]
            accuracies = "  ".join(f"{short_metric(key)} {best[key]:.1%}" for key in best if "accuracy" in key)
            text = styled(f"{outcome.run.label}: {accuracies}  ({outcome.seconds:.0f} s; {self._left(self._done)})")
        else:
            text = styled(f"{outcome.run.label}: ", (outcome.state, "red"), f" {outcome.error}")
        self._console.print(text)

    def _left(self, done: float) -> str:
        """Time left, if the rest goes as fast as what this sweep has done."""
        fresh = done - self._before
        if fresh <= 0:
            return ""
        seconds = (time.monotonic() - self._started) * (self._total - done) / fresh
        return f"{seconds / 3600:.1f} h left" if seconds > 5400 else f"{seconds / 60:.0f} min left"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `fedrobust sweep`."""
    parser.usage = "fedrobust sweep STUDY [--out FOLDER] [--parallel N] [--seeds 0,1,2] [--SETTING VALUE ...]"
    add = parser.add_argument
    add("study", help=f"{', '.join(study_names())}, or a TOML file")
    add("--out", type=Path, help="folder of its runs [sweeps/STUDY]")
    add("--parallel", type=count, default=0, help="runs at once; 0: one per core, or one per GPU [0]")
    add("--engine", choices=("auto", "local", "ray", "flwr"), default="auto", help="of each run")
    add("--seeds", help="other seeds than the study's, such as 0,1,2")
    add(
        "--only",
        action="append",
        default=[],
        metavar="AXIS=VALUE,...",
        help="only the runs at these values of the study's axes, written as in it or as --dry-run shows them; several "
        "of one axis may be named, and the option may be repeated",
    )
    add("--dry-run", action="store_true", help="only say what would run, on how many images, and what is there")
    add_settings(parser)


def main(arguments: argparse.Namespace) -> int:
    """Run what is not there; exit code 1 if a run failed, 130 if the sweep was stopped."""
    from fedrobust.config.effects import limit_cases, refuse_unused
    from fedrobust.running.preflight import check_data, check_settings
    from fedrobust.storage.provenance import provenance
    from fedrobust.studies.plan import plan_sweep, select
    from fedrobust.studies.slots import plan_slots
    from fedrobust.studies.sweep import Sweep, claimed

    study, overrides = load_study(arguments.study), given_settings(arguments)
    for key in ("run-dir", "seed"):
        if key in overrides:
            raise ConfigError(f"--{key}: a sweep has many; use {'--out' if key == 'run-dir' else '--seeds'}")
    if arguments.seeds is not None:
        study = study.with_seeds(arguments.seeds)
    folder = arguments.out or Path("sweeps") / study.name
    runs = select(plan_sweep(study, folder, overrides), arguments.only)
    asked = overrides.keys() | (study.typed if not arguments.only else set())
    found = refuse_unused({run.label: run.cfg for run in runs}, asked, engine=arguments.engine)
    for run in runs:
        check_settings(run.cfg)
        if not arguments.dry_run:
            run.folder.check_outside_of_runs()
            check_data(run.cfg)
    there = [run for run in runs if run.complete]
    left = [run for run in runs if run not in there and not run.damage]
    slots, why = plan_slots([run.cfg for run in left], arguments.engine, arguments.parallel)
    console = new_console()
    console.print(styled((study.name, "bold"), f": {len(runs)} runs, {len(there)} of them there"))
    if keys := [key for key in study.settings if all(key in reasons for reasons in found.values())]:
        console.print(f"{study.name} sets what no run uses: {', '.join(keys)}")
    for line, number in Counter(line for run in runs for line in limit_cases(run.cfg)).items():
        console.print(f"{line} ({number} of {len(runs)} runs)")
    if arguments.dry_run:
        _print_plan(console, runs, left)
        return 0
    if left:
        console.print(f"{slots.parallel} at once, engine {slots.engine} ({why})")
    facts = {**provenance(), "study": study.name, "description": study.description, "overrides": overrides}
    with claimed(folder) as claim, SweepDisplay(console, runs) as display:
        write_atomically(folder / "sweep.json", (json.dumps(facts, indent=2) + "\n").encode())
        sweep = Sweep(runs, folder, slots, claim=claim, watch=display.update)
        handlers = {name: signal.signal(name, lambda *_: sweep.stop()) for name in (signal.SIGINT, signal.SIGTERM)}
        states = Counter()
        try:
            for outcome in sweep:
                states[outcome.state] += 1
                display.ended(outcome)
        finally:
            for name, handler in handlers.items():
                signal.signal(name, handler)
    states["not begun"] = len(sweep.waiting)
    return _close(console, folder, +states, len(there), str(facts["command"]))


def _close(console: Console, folder: Path, states: Counter[str], there: int, command: str) -> int:
    counts = ", ".join(f"{number} {state}" for state, number in states.items())
    console.print(f"{counts or 'nothing to do'}{f', {there} were there' if there else ''}")
    if rest := states["interrupted"] + states["not begun"]:
        console.print(f"stopped, {rest} of the runs are left; go on with: {command}")
        return 130
    if states["failed"]:
        console.print("the same command tries the failed ones once more")
    if states["unreadable"]:
        console.print("what is unreadable stays as it is: remove its folder to run it again")
    console.print(f"fedrobust report {typed(folder)} --out {typed(folder / 'report')}")
    return 1 if states["failed"] or states["unreadable"] else 0


def _print_plan(console: Console, runs: list[PlannedRun], left: list[PlannedRun]) -> None:
    total = sum(run.cost for run in runs)
    table = Table(Column("run", overflow="fold"), "state", Column("images", justify="right"), "share of the work")
    for run in runs:
        state = "unreadable" if run.damage else run.folder.record().get("state", "")
        table.add_row(run.label, state, f"{run.images:,}", f"{run.cost / total:.1%}")
    console.print(table)
    images = sum(round(run.images * (1 - run.share_done)) for run in left)
    console.print(f"{len(left)} runs to do, {images:,} images to be trained on, passes counted")
