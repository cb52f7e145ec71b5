"""A ClientApp that trains nothing: it loads the weights into a ResNet-18 and sends them back."""

from __future__ import annotations

from functools import lru_cache

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import nn

from fedrobust.engines.arrays import from_record, to_record
from fedrobust.hardware.process import keep_freed_memory
from fedrobust.training.context import as_tensor

app = ClientApp()


def build() -> nn.Module:
    """11.2 million parameters."""
    from fedrobust.config import Model
    from fedrobust.data import DATASETS
    from fedrobust.models import ModelSpec, build_model

    return build_model(ModelSpec.of(Model(name="resnet18"), DATASETS["cifar10"]), generator_seed=0)


@lru_cache(maxsize=1)
def resnet18() -> nn.Module:
    """The model of this process, which is set up as `fedrobust.training.context` does."""
    keep_freed_memory()
    return build()


@app.query()
def query(message: Message, context: Context) -> Message:
    """Which partition this node holds, as clients.app answers it."""
    answer = MetricRecord({key: int(context.node_config[key]) for key in ("partition-id", "num-partitions")})
    return Message(RecordDict({"metrics": answer}), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """The weights, through the model."""
    arrays = message.content["arrays"]
    assert isinstance(arrays, ArrayRecord)
    model = resnet18()
    model.load_state_dict({key: as_tensor(array) for key, array in from_record(arrays).items()})
    state = to_record({key: value.numpy() for key, value in model.state_dict().items()})
    content = RecordDict({"arrays": state, "metrics": MetricRecord({"num-examples": 1})})
    return Message(content, reply_to=message)
