"""A federation's rounds: clients train, and a strategy combines their updates."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from flwr.app import ConfigRecord
from flwr.serverapp import Grid

from fedrobust.config import RunConfig
from fedrobust.config.registry import objective_of, resolve
from fedrobust.data.split import summarise_split
from fedrobust.engines import SimulationGrid
from fedrobust.engines.arrays import from_record, to_record
from fedrobust.errors import ConfigError, RunFailed
from fedrobust.running.rounds import Rounds, Row
from fedrobust.storage.checkpoint import Arrays, Checkpoint
from fedrobust.storage.csv_rows import to_csv
from fedrobust.storage.run_folder import CLIENTS
from strategies.base import FederatedStrategy


class Federation(Rounds):
    """The rounds of a strategy over a grid.

    Raises:
        ConfigError: the config is for another kind of run.
    """

    launcher = "flwr"

    def __init__(self, cfg: RunConfig, grid: Grid) -> None:
        if cfg.kind != "federated":
            raise ConfigError(f"kind = {cfg.kind!r}: this is a {cfg.kind} run; use fedrobust {cfg.kind}")
        super().__init__(cfg)
        self.grid = grid
        self.strategy: FederatedStrategy = resolve("strategies", cfg.strategy.name)(cfg)

    def train(self, server_round: int, before: Checkpoint) -> tuple[Arrays, Row, list[Row]]:
        """Send instructions, wait for replies, aggregate.

        Raises:
            RunFailed: too few usable updates.
        """
        record, timeout = to_record(before.last), self.cfg.strategy.timeout
        messages = list(self.strategy.configure_train(server_round, record, ConfigRecord(), self.grid))
        replies = self.grid.send_and_receive(messages, timeout=timeout)
        aggregated, metrics = self.strategy.aggregate_train(server_round, replies)
        if aggregated is None or metrics is None:
            raise RunFailed(f"round {server_round}: no client was asked; raise strategy.fraction-train")
        arrays = from_record(aggregated)
        drift = self.strategy.drift.of_round(arrays, averaged=self.strategy.averages)
        states = [entry["status"] for entry in self.strategy.client_rows]
        row: Row = {
            "clients": len(states),
            **{status: states.count(status) for status in ("ok", "rejected", "failed", "missing")},
            **{f"train.{key}": value for key, value in metrics.items()},
            "images": sum(entry.get("images", 0) for entry in self.strategy.client_rows),
            "bytes": record.count_bytes() * (len(messages) + states.count("ok")),
            **{f"drift.{key}": value for key, value in drift.items()},
        }
        return arrays, row, self.strategy.client_rows

    def ask_clients(self, server_round: int, arrays: Arrays) -> tuple[Row, list[Row]]:
        """Evaluate the global model at the clients, each on its own held-out images."""
        messages = self.strategy.configure_evaluate(server_round, to_record(arrays), ConfigRecord(), self.grid)
        replies = self.grid.send_and_receive(messages, timeout=self.cfg.strategy.timeout)
        return dict(self.strategy.aggregate_evaluate(server_round, replies) or {}), self.strategy.client_rows

    def save(self, checkpoint: Checkpoint) -> Checkpoint:
        """Return the checkpoint with the strategy's state and the clients' states."""
        clients = self.grid.client_states() if isinstance(self.grid, SimulationGrid) else {}
        return replace(checkpoint, state=self.strategy.state(), clients=clients)

    def begin(self, checkpoint: Checkpoint) -> None:
        if checkpoint.progress.server_round:
            self.strategy.restore(checkpoint.state)
            if isinstance(self.grid, SimulationGrid):
                self.grid.restore_client_states(checkpoint.clients)

    def describe(self) -> dict[str, Any]:
        """Return the partition, computed from the labels and not from messages; write partition.csv, too."""
        facts: dict[str, Any] = {"objective": objective_of(self.cfg)}
        if self.cfg.data.own:
            return facts  # who has what is known to nobody but the clients
        summary = summarise_split(self.evaluator.context.dataset, self.evaluator.split)
        self._check_pool(summary.pool_size)
        self.folder.partition.write_text(to_csv(summary.rows()))
        return facts | {
            "pool": {"images": summary.pool_size, "bytes_moved": summary.bytes_moved},
            "emd": {"before": float(summary.emd_before.mean()), "after": summary.mean_emd},
        }

    def _check_pool(self, size: int) -> None:
        """Raise ConfigError if a resumed run had another pool: one from before `pool.fraction` counted all images."""
        before = self.folder.record().get("pool", {}).get("images", size)
        if before != size:
            raise ConfigError(
                f"pool.fraction = {self.cfg.pool.fraction:g}: gives a pool of {size} images, but the run began "
                f"with {before}; it cannot be resumed"
            )

    def total(self, rounds: list[Row]) -> dict[str, Any]:
        return {
            "rejected": sum(row["rejected"] for row in rounds),
            "failed": sum(row["failed"] + row["missing"] for row in rounds),
            "warnings": absentees(self.folder.read(CLIENTS)),
        }


def absentees(rows: list[Row]) -> list[str]:
    """Return a line for each client that gave no usable answer in at least half of the rounds in which it was asked.

    rows: rows of clients.jsonl. The line has the number of rounds, the phase, and the last reason.
    """
    asked: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        asked.setdefault((row["phase"], row["client"]), []).append(row)
    lines: dict[int, str] = {}
    for (phase, client), answers in sorted(asked.items(), key=lambda item: (item[0][0] != "train", item[0][1])):
        bad = [row for row in answers if row["status"] != "ok"]
        if client not in lines and 2 * len(bad) >= len(answers):
            reason = bad[-1]["reason"].strip().splitlines()[0]
            what = "update" if phase == "train" else "evaluation"
            lines[client] = (
                f"client {client}: no usable {what} in {len(bad)} of the {len(answers)} rounds it was asked in "
                f"({bad[-1]['status']}: {reason})"
            )
    return list(lines.values())
