"""The parts of a round that every strategy shares: seeded sampling, a fixed order of replies, the guard, a row per
client.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg as FlowerFedAvg

from fedrobust.config import RunConfig
from fedrobust.engines.arrays import from_record
from fedrobust.errors import ConfigError, RunFailed
from fedrobust.seeding import numpy_stream
from strategies.drift import Drift
from strategies.guard import Rejected, Update, admit, admit_metrics
from strategies.nodes import Nodes

ABSENT = "its SuperNode is not there"


def num_asked(cfg: RunConfig, fraction: float) -> int:
    """Return the number of clients asked in a phase for this fraction of them, at least one."""
    return max(1, round(fraction * cfg.num_clients))


def sample(cfg: RunConfig, phase: str, server_round: int, fraction: float) -> list[int]:
    """Return the partitions asked in a phase of a round, ascending; they depend only on the seed, the phase and the
    round.
    """
    size = num_asked(cfg, fraction)
    chosen = numpy_stream(cfg.seed, "sample", phase, server_round).choice(cfg.num_clients, size, replace=False)
    return sorted(int(partition) for partition in chosen)


def in_order(asked: Mapping[int, Message], replies: Iterable[Message]) -> Iterator[tuple[int, Message | None]]:
    """Yield (partition, reply) of all that were asked, in ascending order of partition; None if no reply came.

    Our engines answer in this order, so nothing waits; Flower's answer in any order. A reply that answers no message of
    this phase, or a second one, is dropped: nothing counts twice.
    """
    partition_of = {message.metadata.message_id: partition for partition, message in asked.items()}
    waiting = sorted(asked)
    early: dict[int, Message] = {}
    for reply in replies:
        partition = partition_of.pop(reply.metadata.reply_to_message_id, None)
        if partition is None:
            continue
        early[partition] = reply
        while waiting and waiting[0] in early:
            yield waiting[0], early.pop(waiting.pop(0))
    for partition in waiting:
        yield partition, early.pop(partition, None)


def content_of(reply: Message | None) -> Message:
    """Return a reply that has content. Raise Rejected with the reason if it has none."""
    if reply is None:
        raise Rejected("no reply in time")
    if reply.has_error():
        raise Rejected(reply.error.reason or f"error {reply.error.code}")
    return reply


def status_of(reply: Message | None) -> str:
    """Return the status of a reply that is not used."""
    if reply is None:
        return "missing"
    return "failed" if reply.has_error() else "rejected"


Row = dict[str, Any]


class FederatedStrategy(FlowerFedAvg):
    """Base of all strategies: everything except how accepted updates become the next model.

    Messages to a client: a TRAIN message holds the records "arrays" (the global model) and "config"
    ("server-round", "learning-rate", "objective", "proximal-mu"); the reply holds one ArrayRecord like it and one
    MetricRecord with "num-examples" and scalar metrics. EVALUATE is the same without arrays in the reply.

    Args:
        cfg: the run's complete settings; section `strategy` has the shares of clients per phase, limits and timeouts.
    """

    settings: ClassVar[frozenset[str]] = frozenset()
    """Settings of section `strategy` that only this rule takes."""
    objective: ClassVar[str] = "at"
    """Objective of the clients unless `objective.name` sets another."""
    fixed_objective: ClassVar[bool] = False
    """True if `objective` belongs to the method, so that no other is allowed."""
    averages: ClassVar[bool] = False
    """True if the next model is the mean of the accepted updates by `weight`."""

    def __init__(self, cfg: RunConfig, **flower: Any) -> None:
        asked = cfg.objective.name
        if self.fixed_objective and asked not in ("", self.objective):
            raise ConfigError(
                f"objective.name = {asked!r}: strategy {cfg.strategy.name} trains with {self.objective!r} only; "
                f"leave it unset, or use another strategy"
            )
        # not above: `flwr run` imports this package to look for the app, and needs no PyTorch
        from fedrobust.objectives import check_start

        objective = asked or self.objective
        check_start(objective, cfg.attack.random_start)
        self.min_replies = max(cfg.strategy.min_replies, self.least_updates(cfg))
        asked = num_asked(cfg, cfg.strategy.fraction_train)
        if self.min_replies > asked:
            raise ConfigError(
                f"strategy {cfg.strategy.name} needs {self.min_replies} updates a round (strategy.min-replies, "
                f"strategy.num-malicious), but {asked} clients are asked (num-clients, strategy.fraction-train)"
            )
        super().__init__(
            fraction_train=cfg.strategy.fraction_train,
            fraction_evaluate=cfg.strategy.fraction_evaluate,
            min_train_nodes=1,
            min_evaluate_nodes=1,
            min_available_nodes=1,
            **flower,
        )
        self.cfg = cfg
        self.nodes = Nodes(cfg)
        self.reference: dict[str, np.ndarray] = {}
        self.client_rows: list[Row] = []
        """Rows of the clients asked in the current phase: the answer of each, and its status."""
        self.drift = Drift({})
        """Client drift in the current round."""
        self._asked: dict[int, Message] = {}

    @classmethod
    def least_updates(cls, cfg: RunConfig) -> int:
        """Return the number of updates that the rule needs; `strategy.min-replies` may require more."""
        return 1

    def instructions(self, server_round: int) -> dict[str, str | float]:
        """Return the clients' instructions for this round, besides the model and the round's number."""
        return {
            "learning-rate": self.cfg.local.learning_rate,
            "objective": self.cfg.objective.name or self.objective,
            "proximal-mu": 0.0,
        }

    def weight(self, update: Update) -> float:
        """Return the weight of an update in the mean; if the strategy takes no mean, its weight in the drift.

        It must depend only on the update: it is called more than once.
        """
        return 1.0

    def state(self) -> dict[str, np.ndarray]:
        """Return the state that the strategy keeps from round to round, for a checkpoint; {} if there is none."""
        return {}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Restore the state that `state` returned."""

    # -- asking -----------------------------------------------------------------------------------------------

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        self.reference = from_record(arrays)
        self.drift = Drift(self.reference)
        return self._ask(MessageType.TRAIN, self.fraction_train, server_round, arrays, config, grid)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        return self._ask(MessageType.EVALUATE, self.fraction_evaluate, server_round, arrays, config, grid)

    def _ask(
        self,
        phase: str,
        fraction: float,
        server_round: int,
        arrays: ArrayRecord,
        config: ConfigRecord,
        grid: Grid,
    ) -> list[Message]:
        self.client_rows = []
        if not fraction:
            self._asked = {}
            return []
        wanted = sample(self.cfg, phase, server_round, fraction)
        nodes = self.nodes.available(grid, wanted, self.min_replies if phase == MessageType.TRAIN else 0)
        self.client_rows = [
            {"round": server_round, "phase": phase, "client": partition, "status": "missing", "reason": ABSENT}
            for partition in wanted
            if partition not in nodes
        ]
        instructions = {**config, "server-round": server_round, **self.instructions(server_round)}
        self._asked = {
            partition: Message(
                RecordDict({"arrays": arrays, "config": ConfigRecord(instructions)}),
                nodes[partition],
                phase,
                group_id=str(server_round),
            )
            for partition in nodes
        }
        return list(self._asked.values())

    # -- answers ----------------------------------------------------------------------------------------------

    def accepted_updates(self, server_round: int, replies: Iterable[Message]) -> Iterator[Update]:
        """Yield updates that the guard accepts, in ascending order of partition, as soon as possible.

        Raises:
            RunFailed: at the end, if there were fewer than `strategy.min-replies`, or than the rule needs.
        """
        count = 0
        for partition, reply in in_order(self._asked, replies):
            row: Row = {"round": server_round, "phase": "train", "client": partition}
            try:
                update = admit(partition, content_of(reply), self.reference)
            except Rejected as error:
                self.client_rows.append(row | {"status": status_of(reply), "reason": str(error)})
                continue
            count += 1
            moved = self.drift.add(update.arrays, self.weight(update))
            yield update
            self.client_rows.append(_client_row(row, update.num_examples, update.metrics) | {"update_norm": moved})
        if self.client_rows and count < self.min_replies:
            bad = [row for row in self.client_rows if row["status"] != "ok"]
            why = "; ".join(f"client {row['client']} {row['status']}: {row['reason']}" for row in bad[:3])
            seen = f" ({why}{' ...' if len(bad) > 3 else ''})" if bad else ""
            counted = f"{count} usable updates of {len(self.client_rows)} clients"
            raise RunFailed(f"round {server_round}: {counted}, {self.min_replies} are needed{seen}")

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Return mean over images and worst client of every metric that clients measured on held-out images."""
        for partition, reply in in_order(self._asked, replies):
            row: Row = {"round": server_round, "phase": "evaluate", "client": partition}
            try:
                num_examples, metrics = admit_metrics(content_of(reply), allow_empty=True)
            except Rejected as error:
                self.client_rows.append(row | {"status": status_of(reply), "reason": str(error)})
                continue
            self.client_rows.append(_client_row(row, num_examples, metrics))
        rows, keys = self._measured()
        if not rows:
            return None
        worst = {f"worst_{key}": min(row[key] for row in rows) for key in keys if "accuracy" in key}
        return MetricRecord({**self.means(), **worst})

    def means(self) -> dict[str, float]:
        """Return the mean of every measured metric over the clients, weighted by their numbers of images."""
        rows, keys = self._measured()
        total = sum(row["num_examples"] for row in rows)
        return {key: sum(row[key] * row["num_examples"] for row in rows) / total for key in keys}

    def _measured(self) -> tuple[list[Row], list[str]]:
        """Return the clients' rows that count, and the metrics to average: those that all of them have."""
        rows = [row for row in self.client_rows if row["status"] == "ok" and row["num_examples"]]
        keys = [key for key in (rows[0] if rows else {}) if key == "loss" or "accuracy" in key]
        return rows, [key for key in keys if all(key in row for row in rows)]


def _client_row(row: Row, num_examples: float, metrics: dict[str, float]) -> Row:
    """Return the row of an accepted reply; a client's metric never replaces what the server knows."""
    known = row | {"status": "ok", "num_examples": num_examples}
    return known | metrics | known
