"""The `flwr` engine: a run under Flower's own runtime and simulation engine, through its documented commands.

`launch` does all that a plain `flwr run` leaves to the user: a SuperLink of the run's own (not the daemon that
another checkout may have started), as many SuperNodes as clients, absolute paths, nothing installed, nothing reported
home. It waits for the end, reports a failed run as a failure (Flower's commands exit with 0), and leaves no process.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from fedrobust.config import RunConfig
from fedrobust.engines.flwr_command import COMPLETED, LOG, Flower, app_directory, why_failed
from fedrobust.engines.superlink import superlink
from fedrobust.errors import ConfigError, RunFailed
from fedrobust.storage.run_folder import RunFolder, new_run_dir, with_absolute_paths


def check_flwr(cfg: RunConfig) -> None:
    """Raise ConfigError if there is no app directory here, or a setting is not for this engine."""
    if cfg.workers.address:
        raise ConfigError(f"workers.address = {cfg.workers.address!r}: joins a cluster under the ray engine only")
    app_directory()


def launch(cfg: RunConfig) -> None:
    """Run `cfg`, its workers planned, under Flower; the run's folder also gets `flwr.log`.

    Raises:
        RunFailed: the run did not complete; the message is the app's own if it has one.
        ConfigError: there is no app directory here, or a setting is not for this engine.
    """
    check_flwr(cfg)
    folder = RunFolder(Path(cfg.run_dir or new_run_dir(cfg.strategy.name)).absolute())
    folder.prepare()
    before = folder.record()
    home = Path(tempfile.mkdtemp(prefix="fedrobust-flwr-")).resolve()
    try:
        with superlink(home, folder.path / LOG) as environment:
            flower = Flower(home, environment, folder.path / LOG)
            absolute = with_absolute_paths(cfg.replace(run_dir=str(folder.path)))
            run_id = flower.submit(absolute, "--federation-config", _federation(cfg))
            status, details = flower.await_end(run_id)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    if status != COMPLETED:
        raise RunFailed(why_failed(folder, before, details))


def _federation(cfg: RunConfig) -> str:
    """Return the size of the simulation, as Flower takes it."""
    workers = cfg.workers
    return (
        f"num-supernodes={cfg.num_clients} init-args-num-cpus={workers.num * workers.threads} "
        f"client-resources-num-cpus={workers.threads} client-resources-num-gpus={float(workers.num_gpus)}"
    )
