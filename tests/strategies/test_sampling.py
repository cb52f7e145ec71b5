"""Who is asked: a function of the seed, the phase and the round, and of nothing else; and what they are told."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord
from hypothesis import given
from hypothesis import strategies as st

from clients.app import _instructions
from clients.local import Instructions
from fedrobust.config import RunConfig
from strategies import STRATEGIES
from strategies.base import sample

CONFIG = RunConfig(num_clients=20)


@given(
    clients=st.integers(1, 300),
    fraction=st.floats(0, 1, exclude_min=True),
    seed=st.integers(0, 2**63 - 1),
    server_round=st.integers(1, 10_000),
)
def test_as_many_as_asked_for_each_once_ascending(clients, fraction, seed, server_round):
    cfg = RunConfig(num_clients=clients, seed=seed)
    chosen = sample(cfg, "train", server_round, fraction)
    assert len(chosen) == max(1, round(fraction * clients))
    assert chosen == sorted(set(chosen))
    assert set(chosen) <= set(range(clients))
    assert chosen == sample(cfg, "train", server_round, fraction)


def test_seed_phase_and_round_each_change_the_sample():
    samples = {
        tuple(sample(CONFIG.replace(seed=seed), phase, server_round, 0.4))
        for seed in (0, 1)
        for phase in ("train", "evaluate")
        for server_round in (1, 2)
    }
    assert len(samples) == 8


def test_no_other_setting_changes_it():
    other = CONFIG.replace(num_rounds=99, local__learning_rate=0.5, strategy__name="median", workers__num=3)
    assert sample(other, "train", 3, 0.4) == sample(CONFIG, "train", 3, 0.4)


def test_everyone_has_a_turn():
    assert {client for r in range(1, 60) for client in sample(CONFIG, "train", r, 0.2)} == set(range(20))


@pytest.mark.parametrize("name", STRATEGIES)
def test_node_ids_play_no_part(name, all_there):
    def asked(first_id, step):
        strategy = STRATEGIES[name](CONFIG.replace(strategy__name=name, strategy__fraction_train=0.4))
        strategy.nodes = all_there(20, first_id, step)
        record = ArrayRecord({"w": Array(np.zeros(1, np.float32))})
        messages = strategy.configure_train(1, record, ConfigRecord(), None)
        return [(message.metadata.dst_node_id - first_id) // step for message in messages]

    assert asked(1000, 1) == asked(900_000, -7) == sample(CONFIG, "train", 1, 0.4)


def test_a_fraction_of_zero_asks_nobody_to_evaluate(open_round):
    assert open_round("fedavg", phase="evaluate", strategy__fraction_evaluate=0.0).messages == []


def test_clients_are_told_round_rate_objective_and_mu(each_strategy):
    table = each_strategy(local__learning_rate=0.25, strategy__proximal_mu=0.5)
    name, told = table.cfg.strategy.name, dict(table.messages[0].content["config"])
    assert told == {
        "server-round": 1,
        "learning-rate": 0.25,
        "objective": "calfat" if name == "calfat" else "at",
        "proximal-mu": 0.5 if name == "fedprox" else 0.0,
    }


@pytest.mark.parametrize(
    ("strategy", "objective", "mu"), [("fedavg", "at", 0.0), ("fedprox", "at", 0.7), ("calfat", "calfat", 0.0)]
)
def test_round_rate_objective_and_mu_arrive_whole(open_round, strategy, objective, mu):
    table = open_round(strategy, local__learning_rate=0.03, strategy__proximal_mu=0.7)
    for message in table.messages:
        assert _instructions(message) == Instructions(1, 0.03, objective, mu)
