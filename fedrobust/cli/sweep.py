"""`fedrobust sweep`: all runs of a study, several at once, skipping what is there; stopped, it goes on where it was."""

from __future__ import annotations

import argparse
import json
import signal
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Column, Table

from fedrobust.cli.arguments import count
from fedrobust.cli.console import new_console, styled
from fedrobust.cli.paths import typed
from fedrobust.cli.settings import add_settings, given_settings
from fedrobust.errors import ConfigError
from fedrobust.storage.files import write_atomically
from fedrobust.studies import load_study, study_names

if TYPE_CHECKING:  # help is there before PyTorch is
    from fedrobust.studies.plan import PlannedRun


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
    from fedrobust.cli.sweep_display import SweepDisplay
    from fedrobust.config.limit_cases import limit_cases
    from fedrobust.config.unused import refuse_unused
    from fedrobust.running.preflight import check_data, check_settings
    from fedrobust.storage.provenance import provenance
    from fedrobust.studies.plan import plan_sweep, select
    from fedrobust.studies.slots import make_room
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
    room, why = make_room([run.cfg for run in left], arguments.engine, arguments.parallel)
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
        console.print(f"{room.parallel} at once, engine {room.engine} ({why})")
    facts = {**provenance(), "study": study.name, "description": study.description, "overrides": overrides}
    with claimed(folder) as claim, SweepDisplay(console, runs) as display:
        write_atomically(folder / "sweep.json", (json.dumps(facts, indent=2) + "\n").encode())
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
