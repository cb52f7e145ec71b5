"""`fedrobust run`: a preset's runs, one after another, each watched live and recorded."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from fedrobust.cli.follow import Following, Watcher
from fedrobust.cli.live import LiveDisplay
from fedrobust.cli.paths import shown
from fedrobust.cli.settings import add_settings, given_settings
from fedrobust.config import RunConfig
from fedrobust.errors import ConfigError, UserError
from fedrobust.naming import short_metric
from fedrobust.preflight import check_run
from fedrobust.presets import load_preset, preset_names
from fedrobust.records import RunFolder, new_run_dir

RESUMABLE = ("num-rounds", "workers.", "device", "strategy.timeout", "evaluation.test-images")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `fedrobust run`."""
    parser.usage = (
        "fedrobust run PRESET [--engine E] [--tensorboard] [--mlflow [URI]] [--SETTING VALUE ...]\n"
        "       fedrobust run --resume FOLDER"
    )
    parser.add_argument(
        "--engine", choices=("auto", "local", "ray", "flwr"), default="auto", help="who carries the messages"
    )
    add_run_arguments(parser, preset_names())


def add_run_arguments(parser: argparse.ArgumentParser, presets: Sequence[str]) -> None:
    """What runs of both kinds take."""
    parser.add_argument("preset", nargs="?", help=f"{', '.join(presets)}, or a TOML file")
    parser.add_argument("--variant", default="", help="only this variant of the preset")
    parser.add_argument("--resume", metavar="FOLDER", help="go on with the run (or the runs) in a folder")
    parser.add_argument("--tensorboard", action="store_true", help="event files in the run's folder, in tensorboard/")
    parser.add_argument(
        "--mlflow", metavar="URI", nargs="?", const="", help="track in MLflow, in the store at URI or its default one"
    )
    add_settings(parser)


def main(arguments: argparse.Namespace) -> int:
    """Run, and end with a short table and the folder's path."""
    return carry_out(arguments, given_settings(arguments))


def carry_out(arguments: argparse.Namespace, settings: dict[str, str]) -> int:
    """The runs of a preset with these settings over it, or those to go on with."""
    runs = _resumed(Path(arguments.resume), settings) if arguments.resume else _fresh(arguments, settings)
    _quiet()
    for cfg in runs.values():
        check_run(cfg)
    trackers = {label: _trackers(arguments, label, cfg) for label, cfg in runs.items()}
    console = Console(soft_wrap=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    for label, cfg in runs.items():
        code = _run_one(label, cfg, arguments.engine, trackers[label], console)
        if code:
            return code
    _summarise(console, runs)
    return 0


def _fresh(arguments: argparse.Namespace, settings: dict[str, str]) -> dict[str, RunConfig]:
    """Label → config of each run of a preset, each with a folder of its own."""
    if not arguments.preset:
        known = preset_names(settings.get("kind", ""))
        raise ConfigError(f"which preset? known: {', '.join(known)}; or --resume FOLDER")
    preset = load_preset(arguments.preset)
    configs = preset.configs(settings, arguments.variant)
    parent = Path(settings["run-dir"]) if settings.get("run-dir") else new_run_dir(preset.name)
    return {
        variant or preset.name: cfg.replace(run_dir=str((parent / variant).absolute()))
        for variant, cfg in configs.items()
    }


def _resumed(folder: Path, settings: dict[str, str]) -> dict[str, RunConfig]:
    """Label → config of the run in a folder, or of the runs one level below it that are not complete."""
    for key in settings:
        if not key.startswith(RESUMABLE):
            raise ConfigError(f"{key}: cannot change in a resumed run; what can: {', '.join(RESUMABLE)}")
    folders = [folder] if (folder / "config.toml").exists() else sorted(p.parent for p in folder.glob("*/config.toml"))
    if not folders:
        raise ConfigError(f"--resume {folder}: no run in it (no config.toml)")
    runs = {}
    for path in folders:
        started = RunFolder(path).read_config()
        flat = started.to_flat() | settings | {"run-dir": str(path.absolute()), "resume": True}
        if "num-rounds" in settings and started.kind == "central" and started.central.schedule != "constant":
            raise ConfigError(
                f"num-rounds: cannot change in a resumed run whose rate follows it (central.schedule = "
                f"{started.central.schedule!r})"
            )
        runs[path.name] = RunConfig.from_flat(flat)
    return runs


def _trackers(arguments: argparse.Namespace, label: str, cfg: RunConfig) -> list[Watcher]:
    """Those that are asked for. Raises ConfigError where a package is missing."""
    from fedrobust.trackers import MLflow, TensorBoard

    folder, asked = RunFolder(cfg.run_dir), list[Watcher]()
    if arguments.tensorboard:
        asked.append(TensorBoard(folder, cfg))
    if arguments.mlflow is not None:
        asked.append(MLflow(folder, cfg, label, arguments.mlflow))
    return asked


def _run_one(label: str, cfg: RunConfig, asked: str, trackers: list[Watcher], console: Console) -> int:
    """One run, a federated one under the engine that is asked for or fits; its exit code."""
    from fedrobust.provenance import provenance

    def warn(line: str) -> None:
        console.print(line, style="red", highlight=False, markup=False)

    folder = RunFolder(cfg.run_dir)
    if cfg.resume and folder.complete(cfg.num_rounds):
        console.print(f"[bold]{label}[/bold]: complete")
        with Following(folder, trackers, warn):
            return 0
    cfg, engine, lines = _planned(cfg, asked)
    console.print(f"[bold]{label}[/bold]: {lines[0]}", *lines[1:], sep="\n", highlight=False)
    if not cfg.resume:
        folder.prepare()
        folder.update_record(name=label, kind=cfg.kind, engine=engine, **provenance())
    try:
        with Following(folder, [LiveDisplay(cfg.num_rounds, label, console), *trackers], warn):
            _carry_out(cfg, engine, folder)
    except KeyboardInterrupt:
        console.print(f"stopped; go on with: fedrobust run --resume {shown(folder.path)}", highlight=False)
        return 130
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        if folder.checkpoint.exists():
            print(
                f"what it had reached is kept; go on with: fedrobust run --resume {shown(folder.path)}",
                file=sys.stderr,
            )
        return error.exit_code
    finally:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    return 0


def _planned(cfg: RunConfig, asked: str) -> tuple[RunConfig, str, list[str]]:
    """The config with its workers filled in, the engine ("" of a central run), and what there is to say of both."""
    from fedrobust.engines import pick_engine, plan_workers

    if cfg.kind == "central":
        cfg, _ = plan_workers(cfg, "local")
        trained = f"{cfg.objective.name or 'at'} of {cfg.model.name} with {cfg.model.activation}"
        return cfg, "", [f"{trained} on all of {cfg.data.name}, {cfg.workers.threads} CPU threads"]
    engine, why = pick_engine(cfg, asked)
    cfg, plan = plan_workers(cfg, engine)
    clients = f"{cfg.strategy.name} on {cfg.data.name}, {cfg.num_clients} clients"
    return cfg, engine, [clients, f"engine {engine} ({why}): {plan}"]


def _carry_out(cfg: RunConfig, engine: str, folder: RunFolder) -> None:
    """The run itself; the record then knows its memory, and that it was interrupted."""
    from fedrobust import central, engines
    from fedrobust.memory import PeakMemory

    try:
        with PeakMemory() as memory:
            engines.run(cfg, engine) if engine else central.run(cfg)
    except KeyboardInterrupt:
        folder.update_record(state="interrupted")
        raise
    folder.update_record(peak_memory_bytes=max(memory.peak, folder.record().get("peak_memory_bytes", 0)))


def _summarise(console: Console, runs: dict[str, RunConfig]) -> None:
    """The closing table: best (chosen on the validation slice) and last model of each run on the test set."""
    table = Table("run", "strategy", "model", "round", title="on the test set", title_justify="left")
    records: list[tuple[str, RunConfig, dict[str, Any]]] = [
        (label, cfg, RunFolder(cfg.run_dir).record()) for label, cfg in runs.items()
    ]
    names = [key for key in records[0][2]["best"] if "accuracy" in key]
    for name in names:
        table.add_column(short_metric(name), justify="right")
    for label, cfg, record in records:
        for which in ("best", "last"):
            values = [f"{record[which].get(name, float('nan')):.1%}" for name in names]
            strategy = cfg.strategy.name if cfg.kind == "federated" else cfg.kind
            table.add_row(label, strategy, which, str(record[which]["round"]), *values)
    console.print(table)
    for _, cfg, record in records:
        rejected = f", {record['rejected']} updates rejected" if record.get("rejected") else ""
        console.print(f"{shown(Path(cfg.run_dir))}  ({record['seconds']:.0f} s{rejected})", highlight=False)
        for line in dict.fromkeys(filter(None, [*record.get("warnings", []), record.get("stopped", "")])):
            console.print(f"  {line}", style="red", highlight=False, markup=False)


def _quiet() -> None:
    """Flower and Ray log and warn about matters of their own; the display is ours."""
    logging.getLogger("flwr").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
