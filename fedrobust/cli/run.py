"""`fedrobust run`: a preset's runs, one after another, each displayed live and recorded."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Sequence

from rich.console import Console

from fedrobust.cli.arguments import add_settings, given_settings
from fedrobust.cli.console import new_console, styled
from fedrobust.cli.launch import begin, chosen_runs, is_complete, summarise, watched
from fedrobust.config import RunConfig
from fedrobust.presets import preset_names
from fedrobust.running import launch
from fedrobust.running.follow import Watcher
from fedrobust.running.launch import planned, quiet_flower_and_ray
from fedrobust.running.preflight import check_run
from fedrobust.storage.run_folder import RunFolder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `fedrobust run`."""
    parser.usage = (
        "fedrobust run PRESET [--engine E] [--tensorboard] [--mlflow [URI]] [--SETTING VALUE ...]\n"
        "       fedrobust run --resume FOLDER"
    )
    parser.add_argument(
        "--engine",
        choices=("auto", "local", "processes", "ray", "flwr"),
        default="auto",
        help="engine that runs the clients",
    )
    add_run_arguments(parser, preset_names())


def add_run_arguments(parser: argparse.ArgumentParser, presets: Sequence[str]) -> None:
    """Add the arguments that federated and central runs share."""
    parser.add_argument("preset", nargs="?", help=f"{', '.join(presets)}, or a TOML file")
    parser.add_argument("--variant", default="", help="run only this variant of the preset")
    parser.add_argument("--resume", metavar="FOLDER", help="resume the run (or the runs) in a folder")
    parser.add_argument(
        "--tensorboard", action="store_true", help="write event files to tensorboard/ in the run's folder"
    )
    parser.add_argument(
        "--mlflow",
        metavar="URI",
        nargs="?",
        const="",
        help="track the run in MLflow, in the store at URI or its default one",
    )
    add_settings(parser)


def main(arguments: argparse.Namespace) -> int:
    """Run, and end with a short table and the folder's path."""
    return carry_out(arguments, given_settings(arguments))


def carry_out(arguments: argparse.Namespace, settings: dict[str, str]) -> int:
    """Carry out the runs of a preset with these settings over it, or resume runs."""
    quiet_flower_and_ray()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    _trackers(arguments, "", RunConfig())  # what is missing for them is said before a folder is made
    runs = chosen_runs(arguments, settings, lambda cfg: check_run(cfg, arguments.engine))
    trackers = {label: _trackers(arguments, label, cfg) for label, cfg in runs.items()}
    console = new_console()
    for label, cfg in runs.items():
        code = _run_one(label, cfg, arguments.engine, trackers[label], console)
        if code:
            return code
    summarise(console, runs)
    return 0


def _trackers(arguments: argparse.Namespace, label: str, cfg: RunConfig) -> list[Watcher]:
    """Return the requested trackers. Raise ConfigError if a package is missing."""
    from fedrobust.running.trackers import MLflow, TensorBoard

    folder, asked = RunFolder(cfg.run_dir), list[Watcher]()
    if arguments.tensorboard:
        asked.append(TensorBoard(folder, cfg))
    if arguments.mlflow is not None:
        asked.append(MLflow(folder, cfg, label, arguments.mlflow))
    return asked


def _run_one(label: str, cfg: RunConfig, asked: str, trackers: list[Watcher], console: Console) -> int:
    """Carry out one run, a federated one under the requested engine or one that fits; return its exit code."""
    from fedrobust.storage.provenance import provenance

    if is_complete(label, cfg, trackers, console):
        return 0
    plan = planned(cfg, asked)
    console.print(styled((label, "bold"), f": {plan.lines[0]}"), *plan.lines[1:], sep="\n")
    cfg = begin(label, plan.cfg, kind=cfg.kind, engine=plan.engine, **provenance())
    return watched("run", label, cfg, lambda: launch.carry_out(cfg, plan.engine), trackers, console)
