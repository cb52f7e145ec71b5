"""Which node holds which partition. Only the client knows, so it is asked once; ids of nodes change from run to run."""

from __future__ import annotations

import logging
from time import monotonic, sleep

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from fedrobust.errors import RunFailed

PATIENCE = 60.0  # seconds without a new node, after which no more are expected
logger = logging.getLogger(__name__)


def discover(grid: Grid, num_clients: int, *, timeout: float) -> dict[int, int]:
    """Partition → node id, by one QUERY message to every node, which may take `timeout` seconds to answer.

    Raises:
        RunFailed: the number of nodes is not `num_clients`, a node does not answer, or two hold one partition.
    """
    node_ids = _wait_for_nodes(grid, num_clients)
    messages = [
        Message(RecordDict({"config": ConfigRecord()}), node_id, MessageType.QUERY) for node_id in sorted(node_ids)
    ]
    nodes: dict[int, int] = {}
    for reply in grid.send_and_receive(messages, timeout=timeout):
        if reply.has_error():
            raise RunFailed(f"a client could not say which partition it holds: {reply.error.reason}")
        answer = reply.content["metrics"]
        partition, total = int(answer["partition-id"]), int(answer["num-partitions"])  # type: ignore[arg-type]
        if total != num_clients:
            raise RunFailed(f"a node was started for {total} partitions, num-clients is {num_clients}; make them equal")
        if partition in nodes:
            raise RunFailed(f"two nodes hold partition {partition}; give each its own partition-id")
        nodes[partition] = reply.metadata.src_node_id
    if missing := sorted(set(range(num_clients)) - set(nodes)):
        raise RunFailed(f"no node answered for partition {missing[0]} ({len(missing)} of {num_clients} are missing)")
    return nodes


def _wait_for_nodes(grid: Grid, num_clients: int) -> list[int]:
    """Node ids, once there are `num_clients` of them; they appear one by one, so the wait ends when no more come."""
    seen, patience_ends = 0, monotonic() + PATIENCE
    while (count := len(node_ids := list(grid.get_node_ids()))) < num_clients and monotonic() < patience_ends:
        if count > seen:
            seen, patience_ends = count, monotonic() + PATIENCE
            logger.warning("%d of %d SuperNodes are there; waiting for more", count, num_clients)
        sleep(0.2)
    if count != num_clients:
        raise RunFailed(
            f"{count} SuperNodes are there, num-clients is {num_clients}: set num-clients to {count}, or start "
            f"{num_clients} SuperNodes (simulation: --federation-config 'num-supernodes={num_clients}')"
        )
    return node_ids
