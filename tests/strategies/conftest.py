"""One round of a strategy over a model of three numbers and a counter, with real Flower messages."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict

from fedrobust.config import RunConfig
from fedrobust.engines import flower
from strategies import STRATEGIES

CLIENTS = 5
GLOBAL = {"w": np.float32([1, 2, 3]), "seen": np.array(7)}


class AllThere:
    """Nodes from `first` on, `step` apart, one per partition."""

    def __init__(self, num_clients: int, first: int = 100, step: int = 1) -> None:
        self._nodes = {partition: first + step * partition for partition in range(num_clients)}

    def available(self, grid: Any, wanted: Iterable[int], least: int) -> dict[int, int]:
        """Those that are wanted."""
        return {partition: self._nodes[partition] for partition in wanted}


class Round:
    """The messages of one phase of round 1, replies to them, and what the strategy makes of those."""

    def __init__(self, name: str, phase: str = "train", **settings: Any) -> None:
        self.cfg = RunConfig().replace(**{"num_clients": CLIENTS, "strategy__name": name, **settings})
        self.strategy = STRATEGIES[name](self.cfg)
        self.strategy.nodes = AllThere(self.cfg.num_clients)  # type: ignore[assignment]
        self.phase = phase
        configure = self.strategy.configure_train if phase == "train" else self.strategy.configure_evaluate
        record = ArrayRecord({key: Array(array) for key, array in GLOBAL.items()})
        self.messages = list(configure(1, record, ConfigRecord(), None))  # type: ignore[arg-type]
        for number, message in enumerate(self.messages):
            flower.set_message_id(message, f"{phase}-{number}")

    def answer(
        self,
        client: int,
        /,
        w: Any = (1, 1, 1),
        seen: Any = 7,
        num_examples: Any = 10,
        arrays: Any = None,
        **metrics: Any,
    ) -> Message:
        """Of the client asked as number `client`; `arrays` instead of w and seen, None leaves num-examples out."""
        if arrays is None:
            arrays = {"w": np.asarray(w, np.float32), "seen": np.asarray(seen, np.int64)}
        record = ArrayRecord({k: Array(a) if isinstance(a, np.ndarray) else a for k, a in arrays.items()})
        if num_examples is not None:
            metrics = {"num-examples": num_examples, **metrics}
        return self.reply(client, {"arrays": record, "metrics": MetricRecord(metrics)})

    def reply(self, client: int, records: dict[str, Any]) -> Message:
        """With these records."""
        return Message(RecordDict(records), reply_to=self.messages[client])

    def error(self, client: int, reason: str) -> Message:
        """A Flower error."""
        return Message(Error(flower.CLIENT_APP_FAILED, reason), reply_to=self.messages[client])

    def close(self, replies: Iterable[Message]) -> dict[str, np.ndarray]:
        """The next global model."""
        arrays, _ = self.strategy.aggregate_train(1, iter(replies))
        assert arrays is not None
        return {key: array.numpy() for key, array in arrays.items()}

    def became(self, client: int) -> tuple[str, str]:
        """(status, reason) of a client in the client_rows."""
        (row,) = [row for row in self.strategy.client_rows if row["client"] == client]
        return row["status"], row.get("reason", "")


@pytest.fixture(autouse=True)
def _identity() -> None:
    """What Flower wants of a process that makes messages, in whatever order the tests run."""
    flower.take_identity(1)


@pytest.fixture
def open_round() -> Callable[..., Round]:
    """Start a round of the strategy of this name; further settings as of `RunConfig.replace`."""
    return Round


@pytest.fixture(params=STRATEGIES)
def each_strategy(request: pytest.FixtureRequest, open_round: Callable[..., Round]) -> Callable[..., Round]:
    """`open_round` of every registered strategy in turn."""
    return lambda **settings: open_round(request.param, **settings)


@pytest.fixture
def all_there() -> type[AllThere]:
    """In place of `strategies.nodes.Nodes`."""
    return AllThere
