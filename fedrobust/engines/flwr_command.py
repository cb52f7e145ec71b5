"""Flower's own command: its arguments (an app, a connection, a run config) and its answers."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from fedrobust.config import RunConfig, toml
from fedrobust.engines.superlink import CONNECTION, Environment
from fedrobust.errors import ConfigError, RunFailed
from fedrobust.storage.provenance import now
from fedrobust.storage.run_folder import RunFolder

LOG = "flwr.log"
COMPLETED = "finished:completed"


@dataclass
class Flower:
    """The command `flwr` connected to one SuperLink; its messages besides the answers go into the log."""

    home: Path
    environment: Environment
    log: Path

    def call(self, *arguments: str, output: Path) -> None:
        """Run the command to its end and append its output to a file. Its exit status is not meaningful."""
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
        """Return the command's answer. Raise RunFailed if it is an error or missing."""
        output = self.home / "answer.json"
        output.unlink(missing_ok=True)
        self.call(*arguments, "--format", "json", output=output)
        try:
            answer = json.loads(output.read_text(encoding="utf-8"))
        except json.JSONDecodeError:
            answer = {"success": False, "error-message": "no answer"}
        if not answer["success"]:
            said = answer["error-message"].strip().splitlines()[-1].strip()  # above it: what it was about to do
            raise RunFailed(f"flwr {arguments[0]}: {said}; see {self.log}")
        return answer

    def submit(self, cfg: RunConfig, *federation: str) -> str:
        """Submit the app and a run's config, whose run-dir is absolute; return the run's number in Flower."""
        stage(app_directory(), self.home / "app")
        (self.home / "run.toml").write_text(toml.dumps(cfg.to_flat()), encoding="utf-8")
        return self.ask("run", "app", CONNECTION, "--run-config", "run.toml", *federation)["run-id"]

    def await_end(self, run_id: str, patience: float = 0.0) -> tuple[str, str]:
        """Return Flower's status of a run at its end, and its details.

        Raises:
            RunFailed: the SuperLink has not answered for more than `patience` seconds.
        """
        silent_since = None
        while True:
            # ends with the run; asking for the status again and again would cost a Python process each time
            self.call("log", run_id, CONNECTION, "--stream", output=self.log)
            try:
                run = self.ask("list", CONNECTION, "--run-id", run_id)["runs"][0]
            except RunFailed:
                silent_since = silent_since or monotonic()
                if monotonic() - silent_since >= patience:
                    raise
                sleep(1)
                continue
            if run["status"].startswith("finished"):
                return run["status"], run["status-details"]
            silent_since = None


def app_directory() -> Path:
    """Return the folder whose pyproject.toml declares the Flower app: the checkout of this package."""
    folder = Path(__file__).resolve().parents[2]
    path = folder / "pyproject.toml"
    if not path.exists() or "flwr" not in toml.read(path).get("tool", {}):
        raise ConfigError("Flower needs the app's pyproject.toml; install from a checkout (pip install -e .)")
    return folder


def stage(app: Path, target: Path) -> None:
    """Copy the bundle's files to `target`: Flower would read all files of the checkout, virtual environments too."""
    patterns = toml.read(app / "pyproject.toml")["tool"]["flwr"]["app"]["fab-include"]
    for path in (app / "pyproject.toml", *(path for pattern in patterns for path in app.glob(pattern))):
        copy = target / path.relative_to(app)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)


def why_failed(folder: RunFolder, before: dict[str, Any], details: str) -> str:
    """Return why a run failed, in the app's words or else in Flower's; write it into a record that has no error yet.

    before: the record as it was when the run was submitted.
    """
    record = folder.record()
    if record != before and record.get("error"):
        return str(record["error"])
    said = details.removeprefix("Simulation failed with exception: ").removeprefix("N/A")
    reason = f"{said or 'the run did not complete'}; see {folder.path / LOG}"
    if record.get("state") == "running":
        folder.update_record(state="failed", error=reason, ended=now())
    return reason
