"""Launching runs, for `fedrobust run` and `fedrobust deploy`: each run is displayed, recorded and ended in order."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic
from types import FrameType, TracebackType
from typing import Any

from rich.console import Console
from rich.table import Table

from fedrobust.cli.console import shown, styled, typed
from fedrobust.cli.live import LiveDisplay
from fedrobust.config import RunConfig
from fedrobust.config.effects import limit_cases, refuse_unused
from fedrobust.config.names import short_metric
from fedrobust.errors import ConfigError, UserError
from fedrobust.presets import load_preset, preset_names
from fedrobust.running.follow import Following, Watcher
from fedrobust.running.launch import resumed_runs
from fedrobust.storage.run_folder import RUNS, RunFolder, new_run_dir, with_absolute_paths

SIGNALS = (signal.SIGINT, signal.SIGTERM)
ONE_AND_THE_SAME = 2.0  # seconds: a signal to a whole group may reach a process twice, from its sender and a parent


class Stopping:
    """A block in which the first signal sets the state in the run's record, then raises KeyboardInterrupt.

    The record is written before anything is shut down: even if the shutdown fails or is killed, the record says how the
    run ended. SIGINT stays ignored if it was, as it is in the background of a shell.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._last = float("-inf")
        self._before: dict[signal.Signals, Any] = {}
        self.asked = False
        """True once a signal has arrived."""

    def __enter__(self) -> Stopping:
        self._before = {name: signal.getsignal(name) for name in SIGNALS}
        for name, handler in self._before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(name, self._stop)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name, handler in self._before.items():
            signal.signal(name, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if monotonic() - self._last < ONE_AND_THE_SAME:
            return
        self._last, self.asked = monotonic(), True
        with suppress(OSError):
            self._folder.update_record(state="interrupted")
        raise KeyboardInterrupt


def chosen_runs(
    arguments: argparse.Namespace, settings: dict[str, str], check: Callable[[RunConfig], None]
) -> dict[str, RunConfig]:
    """Return label → config of the runs that are selected by `--resume FOLDER`, or by a preset, its `--variant` and
    settings.

    check: raises for a run that cannot be carried out; all runs are checked before the first folder is made.
    """
    if not arguments.resume:
        return _fresh(arguments, settings, check)
    runs = resumed_runs(Path(arguments.resume), settings, lambda line: print(line, file=sys.stderr))
    for cfg in runs.values():
        check(cfg)
    return runs


def _fresh(
    arguments: argparse.Namespace, settings: dict[str, str], check: Callable[[RunConfig], None]
) -> dict[str, RunConfig]:
    """Return label → config of each run of a preset, each with a new folder of its own.

    If `run-dir` is given, it is the folder of the one `--variant`, else the folder above those of the variants.
    """
    if not arguments.preset:
        known = preset_names(settings.get("kind", ""))
        raise ConfigError(f"no preset is given; known: {', '.join(known)}; or --resume FOLDER")
    preset = load_preset(arguments.preset)
    configs = preset.configs(settings, arguments.variant)
    found = refuse_unused(
        {variant or preset.name: cfg for variant, cfg in configs.items()},
        settings.keys() | preset.typed,
        engine=getattr(arguments, "engine", ""),
    )
    given = settings.get("run-dir", "")

    def placed(parent: Path) -> dict[str, RunConfig]:
        alone = given and arguments.variant
        return {
            variant or preset.name: with_absolute_paths(cfg.replace(run_dir=str(parent if alone else parent / variant)))
            for variant, cfg in configs.items()
        }

    for cfg in placed(Path(given or RUNS)).values():
        if given:
            RunFolder(cfg.run_dir).check_new()
        check(cfg)
    for label, reasons in found.items():
        if keys := [key for key in reasons if key in settings or key in preset.keys]:
            print(f"{label}: {preset.name} sets settings that this run does not use: {', '.join(keys)}")
    return placed(Path(given) if given else new_run_dir(preset.name))


def begin(label: str, cfg: RunConfig, **facts: Any) -> RunConfig:
    """Make the folder of a new run with its config and the first entries of its record, and reserve it for this run.

    Settings that make the run a simpler one than its names say are printed.

    Returns: the config to continue with.

    Raises:
        ConfigError: another run has taken the folder.
        RunFailed: the folder cannot be written.
    """
    for line in limit_cases(cfg):
        print(f"{label}: {line}")
    if not cfg.resume:
        RunFolder.create(cfg).update_record(name=label, **facts)
    return cfg.replace(resume=True)


def is_complete(label: str, cfg: RunConfig, trackers: Sequence[Watcher], console: Console) -> bool:
    """Return whether a run that is to be resumed has already ended; the trackers receive it in either case."""
    folder = RunFolder(cfg.run_dir)
    if not (cfg.resume and folder.complete(cfg.num_rounds)):
        return False
    console.print(styled((label, "bold"), ": complete"))
    with _following(folder, trackers, console):
        return True


def watched(
    command: str,
    label: str,
    cfg: RunConfig,
    carry_out: Callable[[], None],
    trackers: Sequence[Watcher],
    console: Console,
) -> int:
    """Carry out a run with the live display and the trackers; return its exit code, and print one line if that is not
    0.

    command: the command that resumes it, `run` or `deploy`.
    """
    folder = RunFolder(cfg.run_dir)
    again = f"fedrobust {command} --resume {typed(folder.path)}"
    with Stopping(folder) as stopping:
        try:
            with _following(folder, [LiveDisplay(cfg.num_rounds, label, console), *trackers], console):
                carry_out()
        except BaseException as error:
            if stopping.asked or isinstance(error, KeyboardInterrupt):
                folder.update_record(state="interrupted", error="")  # whatever the shutdown has met with
                console.print(f"interrupted; resume with: {again}")
                return 130
            if not isinstance(error, UserError):
                raise
            print(f"error: {error}", file=sys.stderr)
            if folder.checkpoint.exists() or folder.record().get("state") == "interrupted":
                print(f"the results so far are kept; resume with: {again}", file=sys.stderr)
            return error.exit_code
    return 0


def _following(folder: RunFolder, watchers: Sequence[Watcher], console: Console) -> Following:
    def warn(line: str) -> None:
        with suppress(OSError):  # nobody reads, and the run continues
            console.print(line, style="red")

    return Following(folder, watchers, warn)


def summarise(console: Console, runs: dict[str, RunConfig]) -> None:
    """Print the closing table: best (chosen on the validation slice) and last model of each run on the test set."""
    table = Table(title="on the test set", title_justify="left", box=None, padding=(0, 2, 0, 0))
    table.add_column("run", overflow="fold")
    for name in ("strategy", "model", "round"):
        table.add_column(name, no_wrap=True)
    records: list[tuple[str, RunConfig, dict[str, Any]]] = [
        (label, cfg, RunFolder(cfg.run_dir).record()) for label, cfg in runs.items()
    ]
    names = [key for key in records[0][2]["best"] if "accuracy" in key]
    for name in names:
        table.add_column(short_metric(name), justify="right", no_wrap=True)
    for label, cfg, record in records:
        for which in ("best", "last"):
            values = [f"{record[which].get(name, float('nan')):.1%}" for name in names]
            strategy = cfg.strategy.name if cfg.kind == "federated" else cfg.kind
            table.add_row(label, strategy, which, str(record[which]["round"]), *values)
    console.print(table)
    for _, cfg, record in records:
        rejected = f", {record['rejected']} updates rejected" if record.get("rejected") else ""
        console.print(f"{shown(Path(cfg.run_dir))}  ({record['seconds']:.0f} s{rejected})")
        for line in dict.fromkeys(filter(None, [*record.get("warnings", []), record.get("stopped", "")])):
            console.print(f"  {line}", style="red")
