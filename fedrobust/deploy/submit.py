"""A run on real SuperNodes: submitted to a running SuperLink, awaited, and stopped if this process is stopped.

The ServerApp writes the run's folder and this process reads it, both under one path: `fedrobust deploy` belongs on the
server's machine (in docker-compose.yml both mount it at /runs), the only one from which the Control API is reached.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from fedrobust.config import RunConfig
from fedrobust.engines.flwr_command import COMPLETED, LOG, Flower, why_failed
from fedrobust.engines.superlink import CONNECTION, flwr_environment, write_connection
from fedrobust.errors import ConfigError, RunFailed
from fedrobust.storage.run_folder import RunFolder

PATIENCE = 90.0  # seconds that a SuperLink may take to restart
RUN_NUMBER = "flwr-run.txt"  # in the run's folder: what Flower calls it


@dataclass(frozen=True)
class SuperLink:
    """The address of a Control API and the root certificates to trust; `root_certificates` is None for plaintext."""

    address: str
    root_certificates: Path | None


def launch(cfg: RunConfig, superlink: SuperLink) -> None:
    """Run `cfg` on the SuperNodes of a SuperLink; the run's folder also gets `flwr.log`.

    Raises:
        RunFailed: the run did not complete, or the SuperLink did not answer for 90 seconds.
    """
    folder = RunFolder(cfg.run_dir)
    folder.prepare()
    before = folder.record()
    number = folder.path / RUN_NUMBER
    with command(superlink, folder.path / LOG) as flower:
        if number.exists():  # the earlier process may be gone while its run continues: two would write one folder
            _stop(flower, number.read_text())
        run_id = flower.submit(cfg)
        number.write_text(run_id)
        try:
            status, details = flower.await_end(run_id, PATIENCE)
        except KeyboardInterrupt:
            _stop(flower, run_id)
            raise
    if status != COMPLETED:
        raise RunFailed(why_failed(folder, before, details))
    if folder.record().get("state") != "completed":
        raise RunFailed(
            f"{folder.path}: the run completed, but its files are not here; the ServerApp and this command "
            "must use one folder"
        )


def _stop(flower: Flower, run_id: str) -> None:
    """Stop a run; do nothing if it has ended."""
    with suppress(RunFailed):
        flower.ask("stop", run_id, CONNECTION)


def register(nodes: Path, superlink: SuperLink) -> list[str]:
    """Register the SuperNodes whose public keys (`<name>.pub`) lie in a folder; return one line each.

    Raises:
        RunFailed: the SuperLink does not answer.
        ConfigError: there are no keys in the folder.
    """
    keys = sorted(nodes.glob("*.pub"), key=lambda path: (len(path.stem), path.stem))
    if not keys:
        raise ConfigError(f"{nodes}: no public keys (*.pub); fedrobust certs makes them")
    lines = []
    with tempfile.TemporaryDirectory() as logs, command(superlink, Path(logs) / LOG) as flower:
        for key in keys:
            try:
                flower.ask("supernode", "register", str(key.absolute()), CONNECTION, "--name", f"client-{key.stem}")
                lines.append(f"client-{key.stem}: registered")
            except RunFailed as error:
                if "already in use" not in str(error):
                    raise
                lines.append(f"client-{key.stem}: was registered")
    return lines


@contextmanager
def command(superlink: SuperLink, log: Path) -> Iterator[Flower]:
    """Yield Flower's command with its own FLWR_HOME, in which CONNECTION is this SuperLink."""
    with tempfile.TemporaryDirectory(prefix="fedrobust-flwr-") as name:
        home = Path(name).resolve()
        ca = superlink.root_certificates
        if ca is not None and not os.access(ca, os.R_OK):
            raise ConfigError(f"{ca}: cannot be read; name the authority's certificate, or use --insecure")
        write_connection(home, superlink.address, ca)
        yield Flower(home, flwr_environment(home, superlink.address), log)
