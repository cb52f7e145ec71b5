"""Federations of polynomial networks: limit cases, certificates, resume, engines, and what is refused."""

import json

import numpy as np
import pytest
import torch

from fedrobust.cli import main
from fedrobust.convex.certificates import accuracy, l2_margins
from fedrobust.convex.network import Lifted
from fedrobust.data import load_data
from fedrobust.errors import ConfigError
from fedrobust.evaluation.evaluated_model import load_evaluated_model
from fedrobust.models.polynomial import worst_images
from fedrobust.running.central import Central
from fedrobust.running.preflight import check_settings
from fedrobust.storage.checkpoint import load_model
from fedrobust.storage.run_folder import RunFolder

CERTIFIED = "robust_accuracy.certified"
CONVEX = {
    "data__classes": "3,8",
    "data__train_images": 0,
    "data__test_images": 0,
    "model__name": "polynomial",
    "model__activation": "polynomial",
    "objective__name": "convex",
    "attack__norm": "l2",
    "attack__epsilon": "0.25",
    "local__batch_size": 64,
    "local__momentum": 0.0,
    "local__weight_decay": 0.05,
    "evaluation__attacks": "pgd-5,certified",
    "evaluation__select_by": "certified",
    "evaluation__test_images": 20,
}


@pytest.fixture
def convex(quick):
    return lambda **changes: quick(**{**CONVEX, **changes})


@pytest.fixture(scope="module")
def folder(quick, federate):
    return federate(quick(**CONVEX))


def last(folder):
    return load_model(folder.last)[0]


def lifted(folder):
    return Lifted(*(torch.from_numpy(last(folder)[f"network.{name}"]) for name in ("positive", "negative")))


def test_the_global_model_is_a_network_and_every_round_has_its_certificate(folder):
    assert lifted(folder).residual() < 1e-12
    for row in folder.read("rounds.jsonl"):
        assert row[f"validation.{CERTIFIED}"] <= row["validation.robust_accuracy.pgd-5"]
        assert f"test.{CERTIFIED}" in row
        assert f"clients.worst_{CERTIFIED}" in row
    record = folder.record()["last"]
    evaluated = load_evaluated_model(str(folder.path), which="last")
    images = evaluated.dataset.test.images.astype(np.float32).transpose(0, 3, 1, 2) / 255
    x, y = torch.from_numpy(images), torch.from_numpy(evaluated.dataset.test.labels)
    inside = (x.double() - evaluated.dataset.mean[0]).flatten(1)
    margins = l2_margins(lifted(folder), inside, y, 0.25)
    assert record[CERTIFIED] == accuracy(margins)
    assert 0.2 < record[CERTIFIED] <= record["robust_accuracy.pgd-5"] <= record["natural_accuracy"]
    broken = evaluated.model(worst_images(evaluated.model, x, y, radius=0.25)).argmax(1) != y
    assert torch.equal(broken, margins <= 0)
    assert evaluated.dataset.class_names == ("3", "8")


def test_an_evaluation_has_the_certificate_below_every_attack(folder, tmp_path):
    asked = ["--attacks", "pgd-20-decay,certified", "--num-images", "30", "--threads", "1", "--out", str(tmp_path)]
    assert main(["evaluate", str(folder.path), *asked]) == 0
    record = json.loads((tmp_path / "evaluation.json").read_text())
    shares = {name: found["accuracy"] for name, found in record["accuracy"].items()}
    assert 0 < shares["certified"] <= shares["pgd-20-decay"]
    assert record["checks"]["planted"]["num_images"] == 0
    assert record["flags"] == []


def test_one_client_with_all_the_data_is_a_central_run(convex, federate):
    settings = {"num_clients": 1, "partition__held_out": 0.0, "evaluation__clients_every": 0}
    alone, cfg = federate(convex(**settings)), convex(kind="central", central__overfitting="ignore", **settings)
    Central(cfg).run()
    for key, value in last(RunFolder(cfg.run_dir)).items():
        np.testing.assert_allclose(last(alone)[key], value, rtol=1e-9, atol=1e-12)


def test_a_run_goes_on_as_if_it_had_not_stopped(convex, federate, folder, bits, metrics_of):
    cfg = convex(num_rounds=1)
    federate(cfg)
    again = federate(cfg.replace(num_rounds=2, resume=True))
    assert bits(again.last) == bits(folder.last)
    assert metrics_of(again) == metrics_of(folder)


@pytest.mark.parametrize(
    "settings",
    [
        {"strategy__name": "median"},
        {"strategy__name": "fedprox", "strategy__proximal_mu": 1.0},
        {"objective__name": "at", "local__momentum": 0.9, "local__augment": True},
        {"strategy__name": "calfat", "objective__name": "", "attack__random_start": "gaussian"},
        {"data__classes": "0,3,8"},
    ],
)
def test_other_strategies_objectives_and_more_classes(settings, convex, federate, folder):
    cfg = convex(num_rounds=1, **settings)
    check_settings(cfg)
    found = federate(cfg)
    (row,) = found.read("rounds.jsonl")
    assert row["ok"] == 3
    assert row[f"validation.{CERTIFIED}"] <= row["validation.robust_accuracy.pgd-5"]
    assert lifted(found).positive.shape[0] == (3 if load_data(cfg.data).num_classes == 3 else 1)
    if cfg.strategy.name != "median":  # a median of cones' members need not be one: whoever loads it projects it
        assert lifted(found).residual() < 1e-12


def test_a_pull_on_the_roots_keeps_clients_near_the_global_model(convex, federate):
    def moved(mu):
        found = federate(convex(num_rounds=1, strategy__name="fedprox", strategy__proximal_mu=mu))
        return found.read("rounds.jsonl")[0]["drift.update_norm"]

    assert moved(0.0) > moved(5.0) > 0


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"model__name": "small-cnn"},
            "objective.name = 'convex': allowed only with model.name polynomial and attack.norm l2",
        ),
        (
            {"attack__norm": "linf"},
            "objective.name = 'convex': allowed only with model.name polynomial and attack.norm l2",
        ),
        (
            {"attack__norm": "linf", "objective__name": "at"},
            "evaluation.attacks has 'certified': allowed only with model.name",
        ),
        ({"model__activation": "relu"}, "model.activation = 'relu': must be polynomial"),
        ({"model__input_size": 16}, "model.input-size = 16: must be 0"),
        ({"precision": "bfloat16"}, "precision = 'bfloat16': must be auto"),
        ({"objective__awp_gamma": 0.01}, "objective.awp-gamma = 0.01: must be 0 for objective convex"),
        ({"kind": "central", "local__momentum": 0.9}, "local.momentum = 0.9: must be 0 in a central run"),
        ({"kind": "central", "central__average": "ema"}, "central.average = 'ema': must be none"),
    ],
)
def test_what_does_not_go_together_is_refused_before_the_run(settings, said, convex):
    with pytest.raises(ConfigError) as error:
        check_settings(convex(**settings))
    assert str(error.value).startswith(said)
    assert "\n" not in str(error.value)
