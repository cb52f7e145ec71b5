"""What a client and a central run hand to the attack, the objective and the training loop: every setting, as given."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import clients.local
import fedrobust.training.central
from clients.local import Instructions, LocalClient
from fedrobust.config import RunConfig
from fedrobust.training import build
from fedrobust.training.central import Trainer
from fedrobust.training.context import run_context

AWAY = {
    "seed": 5,
    "cuda-graphs": False,
    "objective.trades-beta": 3.0,
    "objective.adversarial-fraction": 0.25,
    "objective.temperature": 0.3,
    "objective.scale": 5.0,
    "objective.label-smoothing": 0.2,
    "objective.noise-sigma": 0.1,
    "objective.awp-gamma": 0.02,
    "objective.attack-mode": "train",
    "attack.epsilon": "0.2",
    "attack.norm": "l2",
    "attack.step-size": "0.07",
    "attack.steps": 3,
    "attack.restarts": 2,
    "attack.random-start": "gaussian",
    "local.epochs": 2,
    "local.steps": 3,
    "local.batch-size": 17,
    "local.learning-rate": 0.02,
    "local.momentum": 0.4,
    "local.weight-decay": 0.03,
}
TOLD = Instructions(server_round=4, learning_rate=0.02, objective="mixed", proximal_mu=0.7)


class Handed(Exception):
    """Raised in place of training: all there is to know was handed on."""


class Seen(SimpleNamespace):
    """What was handed on; it stands for the attack as well, which is a key of a cache."""

    __hash__ = object.__hash__


@pytest.fixture(params=["federated", "central"])
def handed(request, quick, monkeypatch):
    """The config with AWAY, and what went to `make_attack`, `make_objective` and `train` in a run of this kind."""
    module = clients.local if request.param == "federated" else fedrobust.training.central
    seen = Seen(kind=request.param, attack=None, objective=None, training=None)
    build.training_attack.cache_clear()

    def make_attack(name, **settings):
        seen.attack = {"name": name, **settings}
        return seen

    def make_objective(name, **settings):
        seen.objective = {"name": name, **settings}

    def train(model, data, index, objective, schedule, **settings):
        seen.training = {"index": index, "schedule": schedule, **settings}
        raise Handed

    monkeypatch.setattr(build, "make_attack", make_attack)
    monkeypatch.setattr(build, "make_objective", make_objective)
    monkeypatch.setattr(module, "train", train)
    changes = AWAY | {"kind": request.param, "objective.name": "mixed", "attack.name": "mim"}
    cfg = RunConfig.from_flat(quick().to_flat() | changes)
    context = run_context(cfg)
    with pytest.raises(Handed):
        begin_training(cfg, context)
    return cfg, seen


def begin_training(cfg, context):
    if cfg.kind == "federated":
        LocalClient(cfg, 1).train(context.weights(), TOLD)
    else:
        Trainer(cfg, context, np.arange(50), context.arrays()).train(TOLD.server_round)


def given(cfg, section):
    return {key: getattr(getattr(cfg, section), key) for key in type(getattr(cfg, section)).model_fields}


def test_every_setting_of_attack_and_objective_is_away_from_its_default(handed):
    cfg, _ = handed
    for section in ("attack", "objective"):
        default = given(RunConfig(), section)
        assert [key for key, value in given(cfg, section).items() if value == default[key]] == []


def test_the_attack_is_given_every_setting(handed):
    cfg, seen = handed
    assert seen.attack == given(cfg, "attack")


def test_the_objective_is_given_every_setting_and_that_attack(handed):
    cfg, seen = handed
    assert seen.objective.pop("attack") is seen
    assert len(seen.objective.pop("class_counts")) == 10
    assert seen.objective == {**given(cfg, "objective"), "epsilon": cfg.attack.epsilon}


def test_training_is_given_schedule_seed_precision_and_a_stream_of_its_own(handed):
    cfg, seen = handed
    schedule = {key: getattr(seen.training["schedule"], key) for key in given(cfg, "local") if key != "augment"}
    assert schedule == {key: value for key, value in given(cfg, "local").items() if key != "augment"}
    assert seen.training["schedule"].proximal_mu == (TOLD.proximal_mu if seen.kind == "federated" else 0.0)
    assert (seen.training["seed"], seen.training["precision"]) == (5, torch.float32)
    assert seen.training["capture"] is False
    assert seen.training["stream"] == ("client", 1 if seen.kind == "federated" else 0, 4)


def test_a_client_trains_at_the_rate_it_is_told(quick, monkeypatch):
    rates = []

    def train(model, data, index, objective, schedule, **settings):
        rates.append(schedule.learning_rate)
        raise Handed

    monkeypatch.setattr(clients.local, "train", train)
    client = LocalClient(quick(local__learning_rate=0.02), 1)
    with pytest.raises(Handed):
        client.train(client.context.weights(), replace(TOLD, learning_rate=0.5))
    assert rates == [0.5]


@pytest.mark.parametrize("mode", ["add", "replace", "control"])
def test_the_weight_of_a_client_counts_all_that_it_trained_on(quick, mode):
    """Its own images and those of the pool: what FedAvg weighs it by."""
    cfg = quick(pool__fraction=0.2, pool__mode=mode, local__batch_size=500, objective__name="natural")
    client = LocalClient(cfg, 1)
    _, metrics = client.train(client.context.weights(), Instructions(1, 0.01, "natural", 0.0))
    own, pool = len(client.shard.own), 80
    assert metrics["num-examples"] == metrics["images"] == (own if mode == "replace" else own + pool)
