"""Trackers: a run's rounds in TensorBoard or MLflow, from the rows of its folder (`fedrobust.running.follow`)."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from importlib import import_module
from time import time
from typing import Any

from fedrobust.config import RunConfig
from fedrobust.errors import ConfigError, RunFailed
from fedrobust.storage.files import write_atomically
from fedrobust.storage.run_folder import RunFolder

Row = dict[str, Any]


class TensorBoard:
    """A tracker that writes event files to the run's `tensorboard` folder: every numeric column as a scalar at its
    round, the config as text.

    A resumed run is written anew from its first round, after a mark that makes TensorBoard drop the earlier events:
    nothing is shown twice, and no round is missing that a killed process had not written. A round that a resumed run
    repeats is also written anew. Wall times are the times of writing.
    """

    name = "tensorboard"

    def __init__(self, folder: RunFolder, cfg: RunConfig) -> None:
        self._writers = _needed(self.name, "torch.utils.tensorboard").SummaryWriter
        self._path = folder.path / "tensorboard"
        self._cfg = cfg
        self._last = 0

    def begin(self, rows: Sequence[Row]) -> None:
        """Write the config and the earlier rounds."""
        self._writer = self._open(0)
        table = "".join(f"| {key} | {value} |\n" for key, value in self._cfg.to_flat().items())
        self._writer.add_text("config", f"| setting | value |\n|---|---|\n{table}", 0)
        for row in rows:
            self.round(row)

    def round(self, row: Row) -> None:
        """Write the row's scalars."""
        step = row["round"]
        if step <= self._last:
            self._writer.close()
            self._writer = self._open(step)
        self._last = step
        for tag, value in scalars(row).items():
            self._writer.add_scalar(tag, value, step)
        self._writer.flush()

    def end(self) -> None:
        """Close the file."""
        self._writer.close()

    def _open(self, step: int) -> Any:
        """Return a writer whose events replace all from `step` on."""
        return self._writers(str(self._path), purge_step=step)


class MLflow:
    """A tracker that writes an MLflow run: settings as parameters, every numeric column at its round, and at the end
    the record.

    Its id and its last round lie in the run's `mlflow.json`, so that a resumed run continues it with the missing
    rounds. A round that a resumed run repeats is logged again at its step. The experiment is MLFLOW_EXPERIMENT_NAME, or
    fedrobust; without a URI the store is MLflow's own choice (MLFLOW_TRACKING_URI).
    """

    name = "mlflow"

    def __init__(self, folder: RunFolder, cfg: RunConfig, label: str, uri: str = "") -> None:
        self._mlflow = _needed(self.name, "mlflow")
        self._folder, self._cfg, self._label, self._uri = folder, cfg, label, uri
        self._note = folder.path / "mlflow.json"

    def begin(self, rows: Sequence[Row]) -> None:
        """Resume the MLflow run or make one, and log the earlier rounds that it lacks.

        Raises:
            RunFailed: MLflow reports an error.
        """
        try:
            self._client = self._mlflow.MlflowClient(tracking_uri=self._uri or None)
            self._run, logged = self._known() or (self._new(), 0)
            self._note_down(logged)
            for row in rows:
                if row["round"] > logged:
                    self.round(row)
        except Exception as error:
            raise RunFailed(f"--mlflow {self._uri}: {(str(error) or type(error).__name__).splitlines()[0]}") from error

    def round(self, row: Row) -> None:
        """Log the row's metrics."""
        self._log(scalars(row), row["round"])
        self._note_down(row["round"])

    def end(self) -> None:
        """Log the record, and its results as metrics; the run's status is the record's."""
        record = self._folder.record()
        for which in ("best", "last"):
            if which in record:
                results = {key: value for key, value in record[which].items() if key != "round"}
                self._log(scalars(results, which), record[which]["round"])
        self._client.log_dict(self._run, record, "record.json")
        status = {"completed": "FINISHED", "failed": "FAILED"}.get(record.get("state", ""), "KILLED")
        self._client.set_terminated(self._run, status)

    def _known(self) -> tuple[str, int] | None:
        """Return id and last round from the run's note; None if there is none, or the store does not know the id."""
        if not self._note.exists():
            return None
        note = json.loads(self._note.read_text())
        try:
            self._client.update_run(note["run_id"], status="RUNNING")
        except self._mlflow.exceptions.MlflowException:
            return None
        return note["run_id"], note["rounds"]

    def _note_down(self, rounds: int) -> None:
        write_atomically(self._note, json.dumps({"run_id": self._run, "rounds": rounds}).encode())

    def _new(self) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "fedrobust")
        experiment = self._client.get_experiment_by_name(name)
        number = experiment.experiment_id if experiment else self._client.create_experiment(name)
        run = self._client.create_run(number, run_name=self._label).info.run_id
        settings = {key: str(value) for key, value in self._cfg.to_flat().items() if value != ""}
        parameters = [self._mlflow.entities.Param(key, value) for key, value in settings.items()]
        self._client.log_batch(run, params=parameters)
        return run

    def _log(self, values: Mapping[str, float], step: int) -> None:
        now = int(1000 * time())
        metrics = [self._mlflow.entities.Metric(tag, value, now, step) for tag, value in values.items()]
        self._client.log_batch(self._run, metrics=metrics)


def scalars(row: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Return the numbers of a row except its round, by tag: `validation.natural_accuracy` →
    `validation/natural_accuracy`.
    """
    named = {f"{prefix}.{key}" if prefix else key: value for key, value in row.items() if key != "round"}
    return {
        key.replace(".", "/"): float(value)
        for key, value in named.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def _needed(name: str, module: str) -> Any:
    """Return the module of an optional package. Raise ConfigError if it is not installed."""
    try:
        return import_module(module)
    except ImportError as error:
        hint = f"pip install 'fedrobust[{name}]'"
        raise ConfigError(f"--{name}: needs the package {name}: {hint}") from error
