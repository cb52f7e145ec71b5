"""The assignment of nodes to partitions. On real machines only a client knows its partition, so it is asked once, and
machines leave and return; the nodes of a simulation are known.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from time import monotonic, sleep

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from fedrobust.config import RunConfig
from fedrobust.engines import SimulationGrid
from fedrobust.errors import RunFailed

logger = logging.getLogger(__name__)


class Nodes:
    """The node ids by partition, during a run.

    The run begins when all `num-clients` nodes are connected, or when `strategy.min-clients` are and no further one
    came for `strategy.node-timeout` seconds. After that, missing nodes are not asked, and returning ones are.
    """

    def __init__(self, cfg: RunConfig) -> None:
        self._num_clients, self._timeout = cfg.num_clients, cfg.strategy.timeout
        self._least, self._node_timeout = cfg.strategy.min_clients or cfg.num_clients, cfg.strategy.node_timeout
        self._partition_of: dict[int, int | None] = {}
        """Partition of every node that was met; None if it is not a node of this run."""

    def available(self, grid: Grid, wanted: Collection[int], least: int) -> dict[int, int]:
        """Return partition → node id for connected nodes of `wanted`; wait a while if there are fewer than `least`.

        Raises:
            RunFailed: before the first round, and too few nodes, too many, or two for one partition.
        """
        if not self._partition_of:
            self._begin(grid, _wait_for_nodes(grid, self._num_clients, self._least, self._node_timeout))
        ends = monotonic() + self._node_timeout
        while True:
            present = set(grid.get_node_ids())
            self._meet(grid, present)
            holders = {self._partition_of[node]: node for node in sorted(present)}
            found = {partition: holders[partition] for partition in wanted if partition in holders}
            if len(found) >= min(least, len(wanted)) or monotonic() > ends:
                return found
            sleep(0.5)

    def _begin(self, grid: Grid, nodes: Iterable[int]) -> None:
        """Ask all nodes; any error ends the run here."""
        held: set[int] = set()
        for node, answer in self._ask(grid, nodes, self._timeout).items():
            if isinstance(answer, str):
                raise RunFailed(answer)
            if answer in held:
                raise RunFailed(f"two nodes hold partition {answer}; give each its own partition-id")
            held.add(answer)
            self._partition_of[node] = answer
        if (count := len(self._partition_of)) < self._least:
            missing = min(set(range(self._num_clients)) - held)
            lacking = self._num_clients - count
            raise RunFailed(f"no node answered for partition {missing} ({lacking} of {self._num_clients} are missing)")

    def _meet(self, grid: Grid, present: set[int]) -> None:
        """Ask new nodes; no error ends the run here. A node whose predecessor left takes its place."""
        self._partition_of = {n: p for n, p in self._partition_of.items() if p is not None or n in present}
        held = {self._partition_of[node] for node in present & self._partition_of.keys()}
        newcomers = present - self._partition_of.keys()
        answers = self._ask(grid, newcomers, min(self._node_timeout, self._timeout))
        for node in sorted(newcomers):
            answer = answers.get(node, "it does not say which partition it holds")
            taken = answer in held
            self._partition_of[node] = None if isinstance(answer, str) or taken else answer
            held.add(self._partition_of[node])
            if taken:
                logger.warning("ignoring a new SuperNode: partition %s is already held by another node", answer)
            elif isinstance(answer, str):
                logger.warning("ignoring a new SuperNode: %s", answer)
            else:
                logger.warning("a SuperNode joined: it holds partition %s", answer)

    def _ask(self, grid: Grid, nodes: Iterable[int], timeout: float) -> dict[int, int | str]:
        """Return node → its partition, or a line on its error; a node that does not answer is left out."""
        if isinstance(grid, SimulationGrid):
            known = grid.partitions()
            return {node: known[node] for node in nodes}
        messages = [Message(RecordDict({"config": ConfigRecord()}), node, MessageType.QUERY) for node in sorted(nodes)]
        if not messages:
            return {}
        replies = list(grid.send_and_receive(messages, timeout=timeout))
        node_of = {message.metadata.message_id: message.metadata.dst_node_id for message in messages}
        return {node_of[reply.metadata.reply_to_message_id]: self._read(reply) for reply in replies}

    def _read(self, reply: Message) -> int | str:
        if reply.has_error():
            return f"a client could not say which partition it holds: {reply.error.reason}"
        answer = reply.content["metrics"]
        partition, total = int(answer["partition-id"]), int(answer["num-partitions"])  # type: ignore[arg-type]
        if total != self._num_clients:
            return f"a node was started for {total} partitions, num-clients is {self._num_clients}; make them equal"
        if not 0 <= partition < total:
            return f"a node holds partition {partition} of {total}; allowed is 0 to {total - 1}"
        return partition


def _wait_for_nodes(grid: Grid, num_clients: int, least: int, timeout: float) -> list[int]:
    """Return node ids, once there are `num_clients` of them; they appear one by one, so the wait ends when no more
    come.
    """
    seen, ends = 0, monotonic() + timeout
    while (count := len(node_ids := list(grid.get_node_ids()))) < num_clients and monotonic() < ends:
        if count > seen:
            seen, ends = count, monotonic() + timeout
            logger.warning("%d of %d SuperNodes are connected; waiting for more", count, num_clients)
        sleep(0.2)
    if not least <= count <= num_clients:
        raise RunFailed(
            f"{count} SuperNodes are connected, num-clients is {num_clients}: set num-clients to {count}, or start "
            f"{num_clients} SuperNodes (simulation: --federation-config 'num-supernodes={num_clients}')"
        )
    return node_ids
