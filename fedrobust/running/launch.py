"""The start of a run: its engine and workers, and the record of the process that carries it out."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedrobust.config import RunConfig
from fedrobust.config.registry import objective_of
from fedrobust.errors import ConfigError, RunFailed
from fedrobust.reports import labels
from fedrobust.storage.run_folder import RunFolder, folder_of_run, why_no_run, with_absolute_paths

logger = logging.getLogger(__name__)

RESUMABLE = ("num-rounds", "workers.", "device", "data.dir", "strategy.timeout", "evaluation.test-images")
"""Settings, or prefixes of settings, that may change in a resumed run."""


@dataclass(frozen=True)
class Planned:
    """A run that is ready to begin."""

    cfg: RunConfig
    """The config with its workers filled in."""
    engine: str
    """Engine that runs a federation's clients; "" in a central run."""
    lines: tuple[str, ...]
    """Lines for the user on the training and its distribution over the machine."""


def planned(cfg: RunConfig, engine: str = "auto") -> Planned:
    """Return the run with its workers planned for this machine, and the requested engine or one that fits.

    Raises:
        ConfigError: the engine is not there, or the requested workers do not fit the machine.
    """
    from fedrobust.engines import pick_engine, plan_workers
    from fedrobust.hardware.process import heed_cores

    heed_cores()
    if cfg.kind == "central":
        cfg, _ = plan_workers(cfg, "local")
        trained = f"{objective_of(cfg)} of {labels.network(cfg)} with {cfg.model.activation}"
        some = "all" if cfg.central.images == "all" else f"the {labels.phrase('pool', cfg.pool.fraction)}"
        return Planned(cfg, "", (f"{trained} on {some} of {labels.data(cfg)}, {cfg.workers.threads} CPU threads",))
    engine, why = pick_engine(cfg, engine)
    cfg, plan = plan_workers(cfg, engine)
    clients = f"{cfg.strategy.name} on {labels.data(cfg)}, {cfg.num_clients} clients"
    return Planned(cfg, engine, (clients, f"engine {engine} ({why}): {plan}"))


def resumed_runs(
    folder: Path, settings: Mapping[str, Any], say: Callable[[str], None] = logger.warning
) -> dict[str, RunConfig]:
    """Return label → config of the run in a folder, or of the runs one level below it.

    Args:
        settings: flat keys that replace those of the runs; only RESUMABLE ones.
        say: called with a line for each run that is unreadable and therefore left out.

    Raises:
        ConfigError: no run is there, or a setting cannot change in a resumed run.
        RunFailed: no run there is readable.
    """
    for key in settings:
        if not key.startswith(RESUMABLE):
            raise ConfigError(f"{key}: cannot change in a resumed run; settings that can: {', '.join(RESUMABLE)}")
    folders = [] if (folder / "config.toml").exists() else sorted(p.parent for p in folder.glob("*/config.toml"))
    folders = folders or [folder_of_run(folder)]
    if not (folders[0] / "config.toml").exists():
        raise ConfigError(f"--resume {why_no_run(folders[0])}")
    runs = {}
    for path in folders:
        try:
            started = RunFolder(path).read_config()
            RunFolder(path).check_readable()
        except RunFailed as error:
            if len(folders) == 1:
                raise
            say(f"{path}: unreadable, left out: {error}")
            continue
        flat = started.to_flat() | dict(settings) | {"run-dir": str(path), "resume": True}
        if "num-rounds" in settings and started.kind == "central" and started.central.schedule != "constant":
            raise ConfigError(
                f"num-rounds: cannot change in a resumed run whose learning rate depends on it (central.schedule = "
                f"{started.central.schedule!r})"
            )
        runs[path.name] = with_absolute_paths(RunConfig.from_flat(flat))
    if not runs:
        raise RunFailed(f"--resume {folder}: none of its {len(folders)} runs is readable")
    return runs


def carry_out(cfg: RunConfig, engine: str) -> None:
    """Carry out a run whose folder exists; write the peak of its memory into its record.

    Raises:
        RunFailed: the run ended early; its folder holds the results up to then.
    """
    from fedrobust import engines
    from fedrobust.hardware.memory import PeakMemory
    from fedrobust.running import central

    folder = RunFolder(cfg.run_dir)
    with PeakMemory() as memory:
        engines.run(cfg, engine) if engine else central.run(cfg)
    folder.update_record(peak_memory_bytes=max(memory.peak, folder.record().get("peak_memory_bytes", 0)))


def quiet_flower_and_ray() -> None:
    """Silence logs and warnings of Flower and Ray that do not concern the run."""
    logging.getLogger("flwr").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
