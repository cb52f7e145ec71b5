"""The ClientApp: it receives and answers messages. `clients.local` has what a client computes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from clients.local import Instructions, LocalClient
from fedrobust.config import RunConfig
from fedrobust.engines.arrays import from_record, to_record
from fedrobust.engines.watchdog import limited
from fedrobust.hardware.process import explained_out_of_memory, threads
from fedrobust.training.context import as_tensor

app = ClientApp()


@app.query()
def query(message: Message, context: Context) -> Message:
    """Return the number of the partition that this node holds, and nothing about its data."""
    answer = {key: int(context.node_config[key]) for key in ("partition-id", "num-partitions")}
    return Message(RecordDict({"metrics": MetricRecord({**answer})}), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train from the global model on the client's images; return the new weights and metrics."""
    with _client(context) as client:
        state, metrics = client.train(_weights(message), _instructions(message))
    arrays = to_record({key: value.numpy() for key, value in state.items()})
    content = RecordDict({"arrays": arrays, "metrics": MetricRecord({**metrics})})
    return Message(content, reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Evaluate the global model's natural and robust accuracy on the client's own held-out images."""
    with _client(context) as client:
        metrics = client.evaluate(_weights(message), _instructions(message).server_round)
    return Message(RecordDict({"metrics": MetricRecord({**metrics})}), reply_to=message)


@contextmanager
def _client(context: Context) -> Iterator[LocalClient]:
    """Yield the client with its CPU threads, for at most the time that the server waits."""
    cfg = _config(tuple(context.run_config.items()))
    with limited(cfg.strategy.timeout), threads(cfg.workers.threads):
        client = LocalClient(cfg, int(context.node_config["partition-id"]))
        with explained_out_of_memory(client.context.device):
            yield client


@lru_cache(maxsize=2)
def _config(items: tuple[tuple[str, Any], ...]) -> RunConfig:
    """Return the config of these flat settings; parsed once in a process, not once a message."""
    return RunConfig.from_flat(dict(items))


def _weights(message: Message):
    arrays = message.content["arrays"]
    assert isinstance(arrays, ArrayRecord)
    return {key: as_tensor(array) for key, array in from_record(arrays).items()}


def _instructions(message: Message) -> Instructions:
    config = message.content["config"]
    return Instructions(
        server_round=int(config["server-round"]),  # type: ignore[arg-type]
        learning_rate=float(config["learning-rate"]),  # type: ignore[arg-type]
        objective=str(config["objective"]),
        proximal_mu=float(config["proximal-mu"]),  # type: ignore[arg-type]
    )
