"""The base of the in-process engines: a Flower Grid whose nodes are partitions, and which keeps their contexts."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from itertools import count

from flwr.app import ArrayRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from fedrobust.config import RunConfig
from fedrobust.engines import flower
from fedrobust.engines.flower import Run

RUN_ID = 1
FIRST_NODE_ID = 1000  # node of partition 0; Flower keeps 0 and 1 for itself


class SimulationGrid(Grid):
    """A Grid over `num-clients` simulated nodes.

    Replies come as a generator in the order of the messages, so that they are summed in a fixed order and never all
    held at once. A client that raises, or whose worker dies, answers with a Flower error; one that exceeds the time
    limit does not answer. Subclasses only transport the messages (`_exchange`).
    """

    def __init__(self, cfg: RunConfig) -> None:
        self._run = flower.take_identity(RUN_ID)
        self._ids = count(1)
        self._pushed: dict[str, Message] = {}
        flat = dict(cfg.to_flat())
        self.contexts = {
            FIRST_NODE_ID + partition: Context(
                run_id=RUN_ID,
                node_id=FIRST_NODE_ID + partition,
                node_config={"partition-id": partition, "num-partitions": cfg.num_clients},
                state=RecordDict(),
                run_config=flat,
            )
            for partition in range(cfg.num_clients)
        }

    @abstractmethod
    def _exchange(self, messages: list[Message], timeout: float | None) -> Iterator[Message]:
        """Yield replies to the messages, in their order; those that exceed the time limit are left out."""

    def close(self) -> None:
        """Release the engine's resources; calling it twice does no harm."""

    def partitions(self) -> dict[int, int]:
        """Return node → the partition that it holds."""
        return {node: int(context.node_config["partition-id"]) for node, context in self.contexts.items()}

    # -- client state, for checkpoints ------------------------------------------------------------------------

    def client_states(self) -> dict[int, bytes]:
        """Return partition → its non-empty `context.state`, serialised."""
        return {
            node - FIRST_NODE_ID: flower.records_to_bytes(context.state)
            for node, context in self.contexts.items()
            if context.state
        }

    def restore_client_states(self, states: dict[int, bytes]) -> None:
        """Restore the states that `client_states` returned."""
        for partition, data in states.items():
            self.contexts[FIRST_NODE_ID + partition].state = flower.records_from_bytes(data)

    # -- Flower's interface -----------------------------------------------------------------------------------

    def set_run(self, run: Run) -> None:
        self._run = run

    @property
    def run(self) -> Run:
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        return Message(content, dst_node_id, message_type, group_id=group_id, ttl=ttl)

    def get_node_ids(self) -> Iterable[int]:
        return list(self.contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for message in messages:
            ids.append(str(next(self._ids)))
            flower.set_message_id(message, ids[-1])
            self._pushed[ids[-1]] = message
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterator[Message]:
        return self._exchange([self._pushed.pop(message_id) for message_id in message_ids], None)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        ids = self.push_messages(messages)
        return self._exchange([self._pushed.pop(message_id) for message_id in ids], timeout)


def error_reply(message: Message, reason: str) -> Message:
    """Return a Flower error in answer to a message."""
    return Message(Error(flower.CLIENT_APP_FAILED, reason), reply_to=message)


def handle(app: ClientApp, message: Message, context: Context) -> Message:
    """Run the ClientApp on one message; an exception becomes an error reply, as under Flower's own runtime."""
    try:
        return app(message, context)
    except Exception as error:
        return error_reply(message, f"{type(error).__name__}: {error}")


def private_copy(content: RecordDict) -> RecordDict:
    """Return separate records for one client, over the same arrays: its changes to them reach no other client."""
    return RecordDict({name: ArrayRecord(dict(r)) if isinstance(r, ArrayRecord) else r for name, r in content.items()})
