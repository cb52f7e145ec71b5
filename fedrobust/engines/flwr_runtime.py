"""The `flwr` engine: a run under Flower's own runtime and simulation engine, through its documented commands.

What a plain `flwr run` leaves to whoever types it, `launch` does: a SuperLink of the run's own (not the daemon that
another checkout may have started), as many SuperNodes as clients, absolute paths, nothing installed, nothing reported
home. It waits for the end, takes a failed run for a failure (Flower's commands exit with 0), and leaves no process.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedrobust import toml
from fedrobust.config import RunConfig
from fedrobust.engines.superlink import CONNECTION, Environment, superlink
from fedrobust.errors import ConfigError, RunFailed
from fedrobust.provenance import now
from fedrobust.records import RunFolder, new_run_dir

LOG = "flwr.log"


def launch(cfg: RunConfig) -> None:
    """Run `cfg`, its workers planned, under Flower; beside what the app writes, the run's folder gets `flwr.log`.

    Raises:
        RunFailed: the run did not complete; the message is the app's own where it got as far as having one.
        ConfigError: there is no app directory here, or a setting is not for this engine.
    """
    if cfg.workers.address:
        raise ConfigError(f"workers.address = {cfg.workers.address!r}: joins a cluster under the ray engine only")
    app = app_directory()
    folder = RunFolder(Path(cfg.run_dir or new_run_dir(cfg.strategy.name)).absolute())
    folder.prepare()
    before = folder.record()
    home = Path(tempfile.mkdtemp(prefix="fedrobust-flwr-")).resolve()
    try:
        stage(app, home / "app")
        (home / "run.toml").write_text(toml.dumps(_absolute(cfg, folder.path).to_flat()), encoding="utf-8")
        with superlink(home, folder.path / LOG) as environment:
            status, details = _run(Flower(home, environment, folder.path / LOG), cfg)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    if status != "finished:completed":
        raise RunFailed(_reason(folder, before, details))


def app_directory() -> Path:
    """The folder whose pyproject.toml declares the Flower app: the checkout that this package lies in."""
    folder = Path(__file__).resolve().parents[2]
    path = folder / "pyproject.toml"
    if not path.exists() or "flwr" not in toml.read(path).get("tool", {}):
        raise ConfigError("engine flwr: needs the app's pyproject.toml; install from a checkout (pip install -e .)")
    return folder


def stage(app: Path, target: Path) -> None:
    """Copy what the bundle is made of: Flower would read through all that lies around it, virtual environments too."""
    patterns = toml.read(app / "pyproject.toml")["tool"]["flwr"]["app"]["fab-include"]
    for path in (app / "pyproject.toml", *(path for pattern in patterns for path in app.glob(pattern))):
        copy = target / path.relative_to(app)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)


def _absolute(cfg: RunConfig, run_dir: Path) -> RunConfig:
    """The config for a process with another working directory."""
    data = str(Path(cfg.data.dir).expanduser().absolute()) if cfg.data.dir else ""
    return cfg.replace(run_dir=str(run_dir), data__dir=data)


def _run(flower: Flower, cfg: RunConfig) -> tuple[str, str]:
    """Submit, wait; Flower's status of the run at its end, and what it says about it."""
    workers = cfg.workers
    federation = (
        f"num-supernodes={cfg.num_clients} init-args-num-cpus={workers.num * workers.threads} "
        f"client-resources-num-cpus={workers.threads} client-resources-num-gpus={float(workers.num_gpus)}"
    )
    submit = ["run", "app", CONNECTION, "--run-config", "run.toml", "--federation-config", federation]
    run_id = flower.ask(*submit)["run-id"]
    while True:
        # ends with the run; asking for the status again and again would cost a Python process each time
        flower.call("log", run_id, CONNECTION, "--stream", output=flower.log)
        run = flower.ask("list", CONNECTION, "--run-id", run_id)["runs"][0]
        if run["status"].startswith("finished"):
            return run["status"], run["status-details"]


@dataclass
class Flower:
    """The command `flwr`, talking to one SuperLink; what it has to say beside its answers goes into the log."""

    home: Path
    environment: Environment
    log: Path

    def call(self, *arguments: str, output: Path) -> None:
        """Run it to its end; its output is appended to a file. Its exit status says nothing."""
        with open(output, "ab") as out, open(self.log, "ab") as errors:
            process = subprocess.Popen(
                ["flwr", *arguments],
                cwd=self.home,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=errors,
            )
        try:
            process.wait()
        finally:
            process.kill()
            process.wait()

    def ask(self, *arguments: str) -> dict[str, Any]:
        """What it answers. Raises RunFailed where it answers with an error, or not at all."""
        output = self.home / "answer.json"
        output.unlink(missing_ok=True)
        self.call(*arguments, "--format", "json", output=output)
        try:
            answer = json.loads(output.read_text(encoding="utf-8"))
        except json.JSONDecodeError:
            answer = {"success": False, "error-message": "no answer"}
        if not answer["success"]:
            raise RunFailed(f"flwr {arguments[0]}: {answer['error-message'].strip()}; see {self.log}")
        return answer


def _reason(folder: RunFolder, before: dict[str, Any], details: str) -> str:
    """Why the run failed: in the app's words, else in Flower's; a record that knows of no failure is told."""
    record = folder.record()
    if record != before and record.get("state") == "failed":
        return str(record["error"])
    said = details.removeprefix("Simulation failed with exception: ").removeprefix("N/A")
    reason = f"{said or 'the run did not complete'}; see {folder.path / LOG}"
    if record.get("state") == "running":
        folder.update_record(state="failed", error=reason, ended=now())
    return reason
