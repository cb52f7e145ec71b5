"""On the digits, one client of ten turns against the others, in the middle of a training that goes well."""

import math

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord

from clients.app import app
from fedrobust.config import toml
from fedrobust.data.device import unchanged
from fedrobust.data.split import split_of
from fedrobust.objectives import make_objective
from fedrobust.storage.checkpoint import Checkpoint, Progress, save_checkpoint
from fedrobust.storage.run_folder import RunFolder
from fedrobust.training.context import run_context
from fedrobust.training.loop import SGDSettings, train

ATTACKER = 3
UPDATES = {
    "honest": lambda before, after: after,
    "scaled": lambda before, after: before + 1000 * (after - before),
    "flipped": lambda before, after: before - (after - before),
}
TWO_POINTS = 0.02


@pytest.fixture(scope="module")
def half_trained(quick):
    """The config of two rounds with ten clients, and a model that two epochs on everything have made of the digits."""
    cfg = quick(
        num_clients=10,
        data__train_images=0,
        data__test_images=0,
        partition__scheme="iid",
        objective__name="natural",
        attack__name="fgsm",
        local__steps=8,
        evaluation__clients_every=0,
    )
    context, split = run_context(cfg), split_of(cfg)
    train(
        context.model,
        context.images("train"),
        torch.from_numpy(np.concatenate([client.train for client in split.clients])),
        make_objective("natural"),
        SGDSettings(epochs=2, batch_size=32, learning_rate=0.05),
        augmentation=unchanged,
        precision=torch.float32,
        seed=0,
        stream=("half-trained",),
    )
    return cfg, {key: value.numpy() for key, value in context.weights().items()}


@pytest.fixture(scope="module")
def accuracy(half_trained, federate, tmp_path_factory):
    """Test accuracy after two rounds in which the attacker sends its update changed in this way; each is run once."""
    started, weights = half_trained
    known: dict[tuple[str, str], float] = {}

    def run(strategy, update):
        if (strategy, update) not in known:
            path = tmp_path_factory.mktemp(f"{strategy}-{update}")
            cfg = started.replace(strategy__name=strategy, run_dir=str(path), resume=True)
            (path / "config.toml").write_text(toml.dumps(cfg.to_flat()))
            save_checkpoint(
                RunFolder(path).checkpoint, Checkpoint(Progress(0, cfg.seed, 0, -math.inf), weights, weights)
            )
            folder = federate(cfg, attacked_by(UPDATES[update]))
            assert all(row["ok"] == 10 for row in folder.read("rounds.jsonl"))  # the guard has nothing to object to
            known[strategy, update] = folder.record()["last"]["natural_accuracy"]
        return known[strategy, update]

    return run


def attacked_by(change):
    """The ClientApp, but one client sends change(before, after) for each array after training."""

    def client(message, context):
        if message.metadata.message_type != "train" or context.node_config["partition-id"] != ATTACKER:
            return app(message, context)
        before = {key: array.numpy() for key, array in message.content["arrays"].items()}
        reply = app(message, context)
        after = {key: array.numpy() for key, array in reply.content["arrays"].items()}
        reply.content["arrays"] = ArrayRecord({key: Array(change(before[key], after[key])) for key in after})
        return reply

    return client


@pytest.mark.parametrize("update", ["scaled", "flipped"])
@pytest.mark.parametrize("strategy", ["median", "trimmed-mean", "krum"])
def test_a_robust_strategy_stays_within_two_points(accuracy, strategy, update):
    assert accuracy(strategy, "honest") > 0.9
    assert accuracy(strategy, update) == pytest.approx(accuracy(strategy, "honest"), abs=TWO_POINTS)


def test_fedavg_does_not_survive_a_scaled_update(accuracy):
    assert accuracy("fedavg", "honest") > 0.9
    assert accuracy("fedavg", "scaled") < 0.5
