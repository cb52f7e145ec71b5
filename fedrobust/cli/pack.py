"""`fedrobust pack`: the measurements of many runs in a few files, for a repository or for others, without models."""

from __future__ import annotations

import argparse
from pathlib import Path

from fedrobust.cli.console import shown
from fedrobust.errors import ConfigError
from fedrobust.storage.files import writing


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `fedrobust pack`."""
    add = parser.add_argument
    add("runs", nargs="+", type=Path, metavar="FOLDER", help="a run's folder, or one with runs below it")
    add("--out", type=Path, required=True, help="folder for runs.jsonl, rounds.csv, clients.csv and images.csv")


def main(arguments: argparse.Namespace) -> int:
    """Write the files; name the runs that are left out."""
    from fedrobust.reports.packed import write_packed
    from fedrobust.reports.runs import find_runs
    from fedrobust.storage.run_folder import PACKED

    out = arguments.out
    if (out / PACKED).exists():
        raise ConfigError(f"--out {out}: holds packed runs already; name another folder")
    for folder in arguments.runs:
        if out.resolve().is_relative_to(folder.resolve()):
            raise ConfigError(f"--out {out}: lies in {folder}, which would have each run twice; name one elsewhere")
    found = {run.name: run for run in find_runs(arguments.runs)}
    left_out = {name: run.problem for name, run in found.items() if run.unreadable}
    left_out |= {name: "is running" for name, run in found.items() if run.state == "running"}
    whole = {name: run.folder for name, run in found.items() if name not in left_out}
    if not whole:
        raise ConfigError(f"{', '.join(map(str, arguments.runs))}: none of {len(found)} runs is readable and ended")
    with writing(f"--out {out}"):
        left_out |= write_packed(whole, out)
    for name, reason in left_out.items():
        print(f"{name}: left out: {reason}")
    print(f"packed {len(found) - len(left_out)} of {len(found)} runs into {shown(out.absolute())}")
    return 0
