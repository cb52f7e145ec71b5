"""The ClientApp: messages in, messages out. What a client does with them is in `clients.local`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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
    """Which partition this node holds. Nothing about its data."""
    answer = {key: int(context.node_config[key]) for key in ("partition-id", "num-partitions")}
    return Message(RecordDict({"metrics": MetricRecord({**answer})}), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Local adversarial training from the global model; replies with the new weights and metrics."""
    with _client(context) as client:
        state, metrics = client.train(_weights(message), _instructions(message))
    arrays = to_record({key: value.numpy() for key, value in state.items()})
    content = RecordDict({"arrays": arrays, "metrics": MetricRecord({**metrics})})
    return Message(content, reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Natural and robust accuracy of the global model on this client's own held-out images."""
    with _client(context) as client:
        metrics = client.evaluate(_weights(message), _instructions(message).server_round)
    return Message(RecordDict({"metrics": MetricRecord({**metrics})}), reply_to=message)


@contextmanager
def _client(context: Context) -> Iterator[LocalClient]:
    """The client, at work: with its threads, and no longer than the server waits."""
    cfg = RunConfig.from_flat(context.run_config)
    with limited(cfg.strategy.timeout), threads(cfg.workers.threads):
        client = LocalClient(cfg, int(context.node_config["partition-id"]))
        with explained_out_of_memory(client.context.device):
            yield client


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
