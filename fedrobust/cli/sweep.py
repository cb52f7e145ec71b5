"""`fedrobust sweep`: all runs of a study, several at once, skipping what is there; stopped, it goes on where it was."""

from __future__ import annotations

import argparse
import json
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn
from rich.table import Table

from fedrobust.cli.arguments import count
from fedrobust.cli.paths import shown
from fedrobust.cli.settings import add_settings, given_settings
from fedrobust.errors import ConfigError, RunFailed
from fedrobust.files import write_atomically
from fedrobust.studies import load_study, study_names


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `fedrobust sweep`."""
    parser.usage = "fedrobust sweep STUDY [--out FOLDER] [--parallel N] [--seeds 0,1,2] [--SETTING VALUE ...]"
    add = parser.add_argument
    add("study", help=f"{', '.join(study_names())}, or a TOML file")
    add("--out", type=Path, help="folder of its runs [sweeps/STUDY]")
    add("--parallel", type=count, default=0, help="runs at once; 0: one per core, or one per GPU [0]")
    add("--engine", choices=("auto", "local", "ray", "flwr"), default="auto", help="of each run")
    add("--seeds", help="other seeds than the study's, such as 0,1,2")
    add("--only", default="", metavar="AXIS=VALUE,...", help="only the runs at these values of the study's axes")
    add("--dry-run", action="store_true", help="only say what would run, and what is there")
    add_settings(parser)


def main(arguments: argparse.Namespace) -> int:
    """Run what is not there; exit code 1 if a run failed, 130 if the sweep was stopped."""
    from fedrobust.preflight import check_run
    from fedrobust.provenance import provenance
    from fedrobust.studies.plan import plan_sweep, select
    from fedrobust.studies.room import make_room
    from fedrobust.studies.sweep import Sweep, claimed

    study, overrides = load_study(arguments.study), given_settings(arguments)
    for key in ("run-dir", "seed"):
        if key in overrides:
            raise ConfigError(f"--{key}: a sweep has many; use {'--out' if key == 'run-dir' else '--seeds'}")
    if arguments.seeds is not None:
        study = study.with_seeds(arguments.seeds)
    folder = arguments.out or Path("sweeps") / study.name
    runs = select(plan_sweep(study, folder, overrides), arguments.only)
    for run in runs:
        check_run(run.cfg)
    left = [run for run in runs if not run.complete]
    room, why = make_room([run.cfg for run in left], arguments.engine, arguments.parallel)
    console = Console(soft_wrap=True)
    console.print(
        f"[bold]{study.name}[/bold]: {len(runs)} runs, {len(runs) - len(left)} of them there", highlight=False
    )
    if arguments.dry_run:
        _print_plan(console, runs)
        return 0
    if left:
        console.print(f"{room.parallel} at once, engine {room.engine} ({why})", highlight=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        facts = {**provenance(), "study": study.name, "description": study.description, "overrides": overrides}
        write_atomically(folder / "sweep.json", (json.dumps(facts, indent=2) + "\n").encode())
    except OSError as error:
        raise RunFailed(f"{folder}: cannot be written ({error.strerror}); name another --out") from error
    with claimed(folder) as claim, _Display(console, runs) as display:
        sweep = Sweep(runs, folder, room, claim=claim, watch=display.update)
        handlers = {name: signal.signal(name, lambda *_: sweep.stop()) for name in (signal.SIGINT, signal.SIGTERM)}
        states = Counter()
        try:
            for outcome in sweep:
                states[outcome.state] += 1
                display.ended(outcome)
        finally:
            for name, handler in handlers.items():
                signal.signal(name, handler)
    return _close(console, folder, states, len(runs) - len(left))


def _close(console: Console, folder: Path, states: Counter[str], there: int) -> int:
    counts = ", ".join(f"{number} {state}" for state, number in states.items())
    console.print(f"{counts or 'nothing to do'}{f', {there} were there' if there else ''}", highlight=False)
    if states["interrupted"]:
        console.print(f"stopped; the same command goes on in {shown(folder)}", highlight=False)
        return 130
    if states["failed"]:
        console.print("the same command tries the failed ones once more", highlight=False)
    console.print(f"fedrobust report {shown(folder)} --out {shown(folder / 'report')}", highlight=False)
    return 1 if states["failed"] else 0


def _print_plan(console: Console, runs: list[Any]) -> None:
    total = sum(run.cost for run in runs)
    table = Table("run", "state", "share of the work")
    for run in runs:
        table.add_row(run.label, run.folder.record().get("state", ""), f"{run.cost / total:.1%}")
    console.print(table, highlight=False)


class _Display:
    """A bar over the whole sweep with the time left, one per run at work; without a terminal, a line per run."""

    def __init__(self, console: Console, runs: list[Any]) -> None:
        self._console, self._started = console, time.monotonic()
        self._total = sum(run.cost for run in runs)
        self._before = self._done = sum(run.cost for run in runs if run.complete)
        self._tasks: dict[Any, TaskID] = {}
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._whole = self._progress.add_task("all", total=1.0, left="")

    def __enter__(self) -> _Display:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def update(self, sweep: Any) -> None:
        """How far the sweep is."""
        shares = sweep.shares()
        for run, share in shares.items():
            if run not in self._tasks:
                self._tasks[run] = self._progress.add_task(run.label, total=1.0, left="")
                self._before += run.cost * share  # done by an earlier sweep
                if not self._console.is_terminal:
                    self._console.print(f"began {run.label}{f' at {share:.0%}' if share else ''}", highlight=False)
            self._progress.update(self._tasks[run], completed=share)
        for run in [run for run in self._tasks if run not in shares]:
            self._progress.remove_task(self._tasks.pop(run))
        done = self._done + sum(run.cost * share for run, share in shares.items())
        self._progress.update(self._whole, completed=done / self._total, left=self._left(done))

    def ended(self, outcome: Any) -> None:
        """A line for a run that has ended: its numbers, or its error."""
        if outcome.state == "completed":
            self._done += outcome.run.cost
            best = outcome.run.folder.record()["best"]
            accuracies = "  ".join(
                f"{key.replace('_accuracy', '').removeprefix('robust.')} {value:.1%}"
                for key, value in best.items()
                if "accuracy" in key
            )
            text = f"{outcome.run.label}: {accuracies}  ({outcome.seconds:.0f} s; {self._left(self._done)})"
        else:
            text = f"{outcome.run.label}: [red]{outcome.state}[/red] {outcome.error}"
        self._console.print(text, highlight=False)

    def _left(self, done: float) -> str:
        """Time left, if the rest goes as fast as what this sweep has done."""
        fresh = done - self._before
        if fresh <= 0:
            return ""
        seconds = (time.monotonic() - self._started) * (self._total - done) / fresh
        return f"{seconds / 3600:.1f} h left" if seconds > 5400 else f"{seconds / 60:.0f} min left"
