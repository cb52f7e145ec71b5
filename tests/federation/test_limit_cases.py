"""What a federation must come to: centralised training, FedAvg, a golden run."""

import numpy as np
import pytest
import torch
from torch import nn

from fedrobust.attacks import make_attack
from fedrobust.data import hold_out
from fedrobust.data.device import AUGMENTATIONS
from fedrobust.data.split import split_of
from fedrobust.models import MODELS
from fedrobust.models.layers import normalised
from fedrobust.models.spec import Architecture
from fedrobust.objectives import make_objective
from fedrobust.seeding import numpy_stream
from fedrobust.storage.checkpoint import load_model
from fedrobust.training.context import run_context
from fedrobust.training.loop import SGDSettings, train


def test_one_client_with_all_the_data_is_centralised_training(quick, federate, bits):
    settings = {"num_clients": 1, "partition__held_out": 0.0, "data__train_images": 0}
    cfg = quick(**settings)
    context = run_context(cfg)
    everything, _ = hold_out(
        context.dataset.train.labels, cfg.data.validation_fraction, numpy_stream(cfg.seed, "validation")
    )
    attack = make_attack("pgd", **cfg.attack.model_dump(exclude={"name"}))
    weights = context.weights()
    for server_round in (1, 2):
        train(
            context.load(weights),
            context.images("train"),
            torch.from_numpy(everything),
            make_objective("at", attack=attack),
            SGDSettings(batch_size=cfg.local.batch_size, learning_rate=cfg.local.learning_rate),
            augmentation=AUGMENTATIONS[context.dataset.augmentation],
            precision=torch.float32,
            seed=cfg.seed,
            stream=("client", 0, server_round),
        )
        weights = context.weights()
    assert bits(federate(quick(**settings)).last) == bits({key: value.numpy() for key, value in weights.items()})


def test_fedprox_with_mu_zero_is_fedavg(quick, federate, fedavg, metrics_of, bits):
    fedprox = federate(quick(strategy__name="fedprox", strategy__proximal_mu=0.0))
    assert bits(fedprox.last) == bits(fedavg.last)
    assert metrics_of(fedprox) == metrics_of(fedavg)


def test_fedprox_by_itself_is_not_fedavg(quick, federate, fedavg, bits):
    assert bits(federate(quick(strategy__name="fedprox")).last) != bits(fedavg.last)


def test_fedprox_moves_less_the_larger_mu(quick, federate):
    def distance(mu):
        cfg = quick(num_rounds=1, strategy__name="fedprox", strategy__proximal_mu=mu)
        start = {key: value.numpy() for key, value in run_context(cfg).weights().items()}
        after = load_model(federate(cfg).last)[0]
        return sum(np.square(after[key] - start[key]).sum() for key in start)

    assert distance(0.0) > distance(1.0) > distance(10.0) > 0


@pytest.mark.parametrize("mode", ["add", "replace", "control"])
@pytest.mark.parametrize("strategy", ["fedavg", "calfat"])
def test_a_pool_of_each_kind_runs_under_either_strategy(quick, federate, strategy, mode):
    cfg = quick(num_rounds=1, strategy__name=strategy, pool__fraction=0.2, pool__mode=mode)
    folder = federate(cfg)
    (row,) = folder.read("rounds.jsonl")
    assert row["ok"] == 3
    own = [len(client.own) for client in split_of(cfg).clients]
    trained = [row["images"] for row in folder.read("clients.jsonl") if row["phase"] == "train"]
    assert trained == (own if mode == "replace" else [count + 80 for count in own])


def test_batch_norm_counters_stay_whole_numbers_through_rounds_and_a_resume(quick, federate, monkeypatch):
    def make(spec, activation):
        network = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, spec.num_classes))
        return normalised(network, spec.mean, spec.std)

    monkeypatch.setitem(MODELS, "with-batch-norm", Architecture("Batch norm on pixels.", make))
    cfg = quick(num_rounds=1, model__name="with-batch-norm", objective__name="natural", local__steps=3)
    federate(cfg)
    folder = federate(cfg.replace(num_rounds=2, resume=True))
    (counter,) = [array for array in load_model(folder.last)[0].values() if array.dtype == np.int64]
    assert counter.shape == ()
    assert counter == 6
    assert [row["ok"] for row in folder.read("rounds.jsonl")] == [3, 3]


GOLDEN = {"natural_accuracy": 0.964, "robust_accuracy.fgsm": 0.627, "loss": 0.176}
TOLERANCE = {"natural_accuracy": 0.009, "robust_accuracy.fgsm": 0.02, "loss": 0.005}


def test_the_golden_run(quick, federate):
    """Two rounds on all the digits: what they gave here, within what another machine's arithmetic may change."""
    cfg = quick(data__train_images=0, data__test_images=0, objective__name="natural", local__epochs=2)
    reached = federate(cfg).record()["last"]
    for metric, expected in GOLDEN.items():
        assert reached[metric] == pytest.approx(expected, abs=TOLERANCE[metric]), metric
