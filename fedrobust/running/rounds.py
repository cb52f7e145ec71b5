"""The round loop shared by federated and central runs: it writes the results of each round and resumes after an
interruption.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import Any

from fedrobust.config import RunConfig
from fedrobust.errors import ConfigError, RunFailed
from fedrobust.evaluation import Evaluation
from fedrobust.evaluation.evaluated_model import load_weights
from fedrobust.evaluation.weights import fitted
from fedrobust.models.layers import constants_of
from fedrobust.running.evaluator import RunEvaluator
from fedrobust.storage.checkpoint import Arrays, Checkpoint, Progress, load_checkpoint, save_checkpoint, save_model
from fedrobust.storage.provenance import now, provenance
from fedrobust.storage.run_folder import CLIENTS, ROUNDS, RunFolder, model_facts

Row = dict[str, Any]


class Rounds(ABC):
    """Base of a run's `num-rounds` rounds that keeps the run's folder; subclasses define a round.

    After every round the metrics are appended and the checkpoint is replaced, in that order and durably, so that a
    run killed at any moment resumes from its last complete round; with the same seed it ends with the same result.
    """

    launcher = ""
    """Engine of a run that was not started by the fedrobust command."""

    def __init__(self, cfg: RunConfig) -> None:
        self.cfg = cfg
        self.folder = RunFolder.reopen(cfg) if cfg.resume else RunFolder.create(cfg)

    # -- what a kind of run is -----------------------------------------------------------------------------------

    @abstractmethod
    def train(self, server_round: int, before: Checkpoint) -> tuple[Arrays, Row, list[Row]]:
        """Return the model after one more round, its row of rounds.jsonl, and rows of clients.jsonl."""

    @abstractmethod
    def begin(self, checkpoint: Checkpoint) -> None:
        """Prepare the first round; in a resumed run, restore the state that `save` added."""

    def ask_clients(self, server_round: int, arrays: Arrays) -> tuple[Row, list[Row]]:
        """Return the clients' measurements of the model; nothing without clients."""
        return {}, []

    def over(self, state: Checkpoint) -> str:
        """Return why the run ends before its last round; "" to continue."""
        return ""

    def save(self, checkpoint: Checkpoint) -> Checkpoint:
        """Return the checkpoint with the state that the run keeps from round to round besides the model."""
        return checkpoint

    def describe(self) -> dict[str, Any]:
        """Return entries of the record that are written before round 1."""
        return {}

    def total(self, rounds: list[Row]) -> dict[str, Any]:
        """Return entries of the record about all rounds together."""
        return {}

    # -- the rounds ----------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Run all remaining rounds, then evaluate the best and the last model on the test set.

        Raises:
            RunFailed: a round that fails, a corrupt checkpoint, a disk that is full or cannot be written.
            ConfigError: another process writes the run's folder.
        """
        with self.folder.held(), self.folder.reserve():
            self._run()

    def _run(self) -> None:
        started = perf_counter()
        try:
            if not self.folder.record():
                self.folder.update_record(engine=self.launcher, **provenance())
            self.folder.update_record(state="running", error="")
            self.evaluator = RunEvaluator(self.cfg)
            context = self.evaluator.context
            begun_with = self.folder.record().get("data_digest", context.dataset.digest)
            if self.cfg.resume and begun_with != context.dataset.digest:
                raise ConfigError(f"data.dir = {self.cfg.data.dir!r}: these are not the data with which the run began")
            self.folder.update_record(
                device=str(context.device),
                precision=str(context.precision).removeprefix("torch."),
                data_digest=context.dataset.digest,
                selection=self.evaluator.selection,
                **self.describe(),
            )
            state, why = self._start(), ""
            self.begin(state)
            while state.progress.server_round < self.cfg.num_rounds and not (why := self.over(state)):
                state = self._round(state.progress.server_round + 1, state)
            self._finish(state, why)
        except OSError as error:  # a full disk, say: what was written before is whole
            reason = f"{error.filename or self.folder.path}: {error.strerror or error}"
            self._close(started, state="interrupted", error=reason)
            raise RunFailed(reason) from error
        except Exception as error:
            self._close(started, state="failed", error=str(error), ended=now())
            raise
        except BaseException:
            self._close(started, state="interrupted")
            raise
        self._close(started)

    def _close(self, started: float, **facts: Any) -> None:
        """Record how long the run took, and how it ended unless it is complete."""
        with suppress(OSError):
            spent = self.folder.record().get("seconds", 0) + perf_counter() - started
            self.folder.update_record(seconds=round(spent, 2), **facts)

    def _start(self) -> Checkpoint:
        """Return the checkpoint to resume from, or the initial model."""
        initial = self.evaluator.context.arrays()
        self.folder.check_space(4 * sum(array.nbytes for array in initial.values()) + (1 << 20))
        if self.cfg.resume and self.folder.checkpoint.exists():
            state = load_checkpoint(self.folder.checkpoint)
            if state.progress.seed != self.cfg.seed:
                raise ConfigError(f"seed = {self.cfg.seed}: the checkpoint was made with {state.progress.seed}")
            self.folder.cut_back(state.progress.sizes)
            return state
        self.folder.cut_back({})
        if self.cfg.init:
            initial, found = initial_weights(self.cfg, initial)
            self.folder.update_record(init=found)
        return Checkpoint(Progress(0, self.cfg.seed, 0, -math.inf), initial, initial)

    def _round(self, server_round: int, before: Checkpoint) -> Checkpoint:
        """Carry out one round: train, evaluate, write."""
        start = perf_counter()
        arrays, row, clients = self.train(server_round, before)
        row = {"round": server_round, **row, "seconds_train": perf_counter() - start}

        best, best_round, best_score = before.best, before.progress.best_round, before.progress.best_score
        start = perf_counter()
        if self._due(server_round, self.cfg.evaluation.every):
            if evaluation := self.evaluator.validation(arrays):
                row |= {f"validation.{key}": value for key, value in evaluation.metrics().items()}
                if (score := self.evaluator.score(evaluation)) > best_score:
                    best, best_round, best_score = arrays, server_round, score
            if test := self.evaluator.test_of_round(arrays):
                row |= {f"test.{key}": value for key, value in test.metrics().items()}
        if not self.evaluator.selects:
            best, best_round = arrays, server_round
        if self._due(server_round, self.cfg.evaluation.clients_every):
            asked, answers = self.ask_clients(server_round, arrays)
            row |= {f"clients.{key}": value for key, value in asked.items()}
            clients = clients + answers
        row["seconds_evaluate"] = perf_counter() - start

        if clients:
            self.folder.append(CLIENTS, clients)
        self.folder.append(ROUNDS, [row])
        progress = Progress(server_round, self.cfg.seed, best_round, best_score, self.folder.sizes())
        after = self.save(Checkpoint(progress, last=arrays, best=best))
        save_checkpoint(self.folder.checkpoint, after)
        return after

    def _due(self, server_round: int, every: int) -> bool:
        return server_round == self.cfg.num_rounds or bool(every and server_round % every == 0)

    def _finish(self, state: Checkpoint, why: str) -> None:
        """Evaluate both models on the test set, write them as safetensors, and complete the record."""
        last = self.evaluator.test(state.last)
        best = last if state.best is state.last else self.evaluator.test(state.best)
        context, progress = self.evaluator.context, state.progress
        constants = constants_of(context.model, context.dataset.image_shape[0])
        for path, arrays, which in (
            (self.folder.best, state.best, progress.best_round),
            (self.folder.last, state.last, progress.server_round),
        ):
            save_model(path, arrays, **model_facts(self.cfg), **constants, round=which)
        self.folder.update_record(
            state="completed",
            stopped=why,
            ended=now(),
            rounds=progress.server_round,
            **self.total(self.folder.read(ROUNDS)),
            best={"round": progress.best_round, **self._results(best)},
            last={"round": progress.server_round, **self._results(last)},
        )

    def _results(self, test: Evaluation) -> dict[str, Any]:
        """Return a model's results on the test set, for the record."""
        per_class = test.per_class(self.evaluator.context.dataset.num_classes)
        return {"test_images": test.num_images, **test.metrics(), "per_class": per_class}


def initial_weights(cfg: RunConfig, untrained: Arrays) -> tuple[Arrays, dict[str, Any]]:
    """Return the weights at `cfg.init`, and the facts in their file, as in federated training after central training
    (Zhao et al. 2018).

    Args:
        untrained: the model's own arrays, whose shapes must match; names and types are adapted.

    Raises:
        ConfigError: the weights do not fit the model.
        RunFailed: no such file, or a corrupt one.
    """
    arrays, found = load_weights(Path(cfg.init))
    wanted = {"model": cfg.model.name, "activation": cfg.model.activation}
    for key in ("model", "activation"):
        if key in found and found[key] != wanted[key]:
            raise ConfigError(f"init = {cfg.init!r}: has {key} {found[key]!r}, the run {wanted[key]!r}")
    try:
        arrays = fitted(arrays, untrained)
    except ConfigError as error:
        line = f"init = {cfg.init!r}: not the weights of a {cfg.model.name} for {cfg.data.name}: {error}"
        raise ConfigError(line) from error
    return {key: value.astype(untrained[key].dtype, copy=False) for key, value in arrays.items()}, found
