"""One federation: the rounds, what is written after each, and how it goes on after a stop."""

from __future__ import annotations

import math
from time import perf_counter
from typing import Any

import pandas as pd
from flwr.app import ArrayRecord, ConfigRecord
from flwr.serverapp import Grid

from fedrobust.checkpoint import Arrays, Checkpoint, Progress, load_checkpoint, save_checkpoint, save_model
from fedrobust.config import RunConfig
from fedrobust.engines import SimulationGrid
from fedrobust.engines.arrays import from_record, to_record
from fedrobust.errors import ConfigError, RunFailed
from fedrobust.evaluation import Evaluation
from fedrobust.provenance import now, provenance
from fedrobust.records import CLIENTS, ROUNDS, RunFolder, model_facts
from fedrobust.registry import resolve
from fedrobust.split import summarise_split
from strategies.base import Guarded
from strategies.measure import Measure


class Federation:
    """Runs `num-rounds` rounds of a strategy over a grid and keeps the run's folder.

    After every round the metrics are appended and the checkpoint is replaced, in that order and durably, so that a
    run killed at any moment goes on from its last whole round; with the same seed it ends as if undisturbed.
    """

    def __init__(self, cfg: RunConfig, grid: Grid) -> None:
        self.cfg, self.grid = cfg, grid
        self.folder = RunFolder.reopen(cfg) if cfg.resume else RunFolder.create(cfg)
        self.strategy: Guarded = resolve("strategies", cfg.strategy.name)(cfg)

    def run(self) -> None:
        """All rounds that are left, then the final evaluation of the best and the last model on the test set.

        Raises:
            RunFailed: too few usable updates in a round, a corrupt checkpoint, a full disk.
        """
        started = perf_counter()
        if not self.folder.record():  # no launcher of ours: `flwr run`
            self.folder.update_record(engine="flwr", **provenance())
        self.folder.update_record(state="running", error="")
        try:
            self.measure = Measure(self.cfg)
            self._describe()
            state = self._begin()
            for server_round in range(state.progress.server_round + 1, self.cfg.num_rounds + 1):
                state = self._round(server_round, state)
            self._finish(state)
        except Exception as error:
            self.folder.update_record(state="failed", error=str(error), ended=now())
            raise
        finally:
            spent = self.folder.record().get("seconds", 0) + perf_counter() - started
            self.folder.update_record(seconds=round(spent, 2))

    def _begin(self) -> Checkpoint:
        """The checkpoint to go on from, or the untrained model."""
        initial = {key: value.numpy() for key, value in self.measure.bench.weights().items()}
        self.folder.check_space(4 * sum(array.nbytes for array in initial.values()) + (1 << 20))
        if self.cfg.resume and self.folder.checkpoint.exists():
            state = load_checkpoint(self.folder.checkpoint)
            if state.progress.seed != self.cfg.seed:
                raise ConfigError(f"seed = {self.cfg.seed}: the checkpoint was made with {state.progress.seed}")
            self.folder.cut_back(state.progress.sizes)
            self.strategy.restore(state.strategy)
            if isinstance(self.grid, SimulationGrid):
                self.grid.restore_client_states(state.clients)
            return state
        self.folder.cut_back({})
        return Checkpoint(Progress(0, self.cfg.seed, 0, -math.inf), initial, initial)

    def _round(self, server_round: int, before: Checkpoint) -> Checkpoint:
        """One round: train, evaluate, write."""
        start = perf_counter()
        record = to_record(before.last)
        arrays, row = self._train(server_round, record)
        row = {"round": server_round, **row, "seconds_train": perf_counter() - start}
        clients = self.strategy.ledger

        best, best_round, best_score = before.best, before.progress.best_round, before.progress.best_score
        start = perf_counter()
        if self._due(server_round, self.cfg.evaluation.every):
            evaluation = self.measure.validation(arrays)
            row |= {f"validation.{key}": value for key, value in evaluation.metrics().items()}
            if (score := self.measure.score(evaluation)) > best_score:
                best, best_round, best_score = arrays, server_round, score
            if test := self.measure.test_of_round(arrays):
                row |= {f"test.{key}": value for key, value in test.metrics().items()}
        if self._due(server_round, self.cfg.evaluation.clients_every):
            row |= {f"clients.{k}": v for k, v in self._ask_clients(server_round, arrays).items()}
            clients = clients + self.strategy.ledger
        row["seconds_evaluate"] = perf_counter() - start

        self.folder.append(CLIENTS, clients)
        self.folder.append(ROUNDS, [row])
        after = Checkpoint(
            Progress(server_round, self.cfg.seed, best_round, best_score, self.folder.sizes()),
            last=arrays,
            best=best,
            strategy=self.strategy.state(),
            clients=self.grid.client_states() if isinstance(self.grid, SimulationGrid) else {},
        )
        save_checkpoint(self.folder.checkpoint, after)
        return after

    def _train(self, server_round: int, record: ArrayRecord) -> tuple[Arrays, dict[str, Any]]:
        """Ask, wait, aggregate."""
        timeout = self.cfg.strategy.timeout
        messages = list(self.strategy.configure_train(server_round, record, ConfigRecord(), self.grid))
        replies = self.grid.send_and_receive(messages, timeout=timeout)
        aggregated, metrics = self.strategy.aggregate_train(server_round, replies)
        if aggregated is None or metrics is None:
            raise RunFailed(f"round {server_round}: no client was asked; raise strategy.fraction-train")
        arrays = from_record(aggregated)
        drift = self.strategy.drift.of_round(arrays, averaged=self.strategy.averages)
        states = [entry["status"] for entry in self.strategy.ledger]
        row: dict[str, Any] = {
            "clients": len(states),
            **{status: states.count(status) for status in ("ok", "rejected", "failed", "missing")},
            **{f"train.{key}": value for key, value in metrics.items()},
            "images": sum(entry.get("images", 0) for entry in self.strategy.ledger),
            "bytes": record.count_bytes() * (len(messages) + states.count("ok")),
            **{f"drift.{key}": value for key, value in drift.items()},
        }
        return arrays, row

    def _ask_clients(self, server_round: int, arrays: Arrays) -> dict[str, Any]:
        """The global model on each client's own held-out images, measured there."""
        messages = self.strategy.configure_evaluate(server_round, to_record(arrays), ConfigRecord(), self.grid)
        replies = self.grid.send_and_receive(messages, timeout=self.cfg.strategy.timeout)
        return dict(self.strategy.aggregate_evaluate(server_round, replies) or {})

    def _due(self, server_round: int, every: int) -> bool:
        return server_round == self.cfg.num_rounds or bool(every and server_round % every == 0)

    def _describe(self) -> None:
        """What is known before round 1: precision, device, and the partition (from the labels, not from messages)."""
        bench = self.measure.bench
        self.folder.update_record(
            device=str(bench.device),
            precision=str(bench.precision).removeprefix("torch."),
            data_digest=bench.dataset.digest,
            objective=self.cfg.objective.name or self.strategy.objective,
        )
        if self.cfg.data.own:
            return  # who has what is known to nobody but the clients
        summary = summarise_split(bench.dataset, self.measure.split)
        pd.DataFrame(summary.rows()).to_csv(self.folder.partition, index=False)
        self.folder.update_record(
            pool={"images": summary.pool_size, "bytes_moved": summary.bytes_moved},
            emd={"before": float(summary.emd_before.mean()), "after": summary.mean_emd},
        )

    def _finish(self, state: Checkpoint) -> None:
        """Both models on the test set, as safetensors, and the record's results."""
        last = self.measure.test(state.last)
        best = last if state.best is state.last else self.measure.test(state.best)
        progress = state.progress
        for path, arrays, which in (
            (self.folder.best, state.best, progress.best_round),
            (self.folder.last, state.last, progress.server_round),
        ):
            save_model(path, arrays, **model_facts(self.cfg), round=which)
        rounds = self.folder.read(ROUNDS)
        self.folder.update_record(
            state="completed",
            ended=now(),
            rounds=progress.server_round,
            rejected=sum(row["rejected"] for row in rounds),
            failed=sum(row["failed"] + row["missing"] for row in rounds),
            best={"round": progress.best_round, **self._results(best)},
            last={"round": progress.server_round, **self._results(last)},
        )

    def _results(self, test: Evaluation) -> dict[str, Any]:
        """A model on the test set, for the record."""
        per_class = test.per_class(self.measure.bench.dataset.num_classes)
        return {"test_images": test.num_images, **test.metrics(), "per_class": per_class}
