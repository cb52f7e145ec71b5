"""Lifted variables average; one client is centralised training; skew costs what the gap says."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fedrobust.convex.factors import lifted_of
from fedrobust.convex.federated import factors_of, federate
from fedrobust.convex.first_order import solve_first_order
from fedrobust.convex.lifted import Lifted, values
from fedrobust.convex.problem import Problem


def test_one_client_with_all_samples_is_centralised_training(small: Problem) -> None:
    everything = [torch.arange(len(small.x))]
    *_, last = federate(small, everything, rounds=6, local_steps=40)
    # up to the smoothing of the clients' hinge
    assert last.objective == pytest.approx(solve_first_order(small).objective, rel=0.01)


def test_the_mean_is_a_network_above_the_lower_bound(small: Problem) -> None:
    bound = solve_first_order(small).lower_bound
    order = torch.argsort(small.y)  # a client per class
    rounds = list(federate(small, order.split(15), rounds=3, local_steps=5))
    for state in rounds:
        assert state.model.residual() < 1e-9
        assert state.objective == pytest.approx(small.objective(state.model))
        assert state.objective >= bound
    alike = [order[::2], order[1::2]]
    *_, even = federate(small, alike, rounds=3, local_steps=5)
    assert even.objective < rounds[-1].objective


def test_factors_are_the_networks_neurons(
    random_network: Callable[..., Lifted], blobs: Callable[..., tuple[Tensor, Tensor]]
) -> None:
    lifted, x = random_network(4, 3, units=20), blobs(10, 4)[0]
    factors = factors_of(lifted, torch.Generator().manual_seed(0))
    assert factors.shape == (3, 10, 4)
    again = lifted_of(factors, lifted.activation)
    assert torch.allclose(values(again.forms, x), values(lifted.forms, x), atol=1e-2)


def test_the_same_seed_gives_the_same_rounds(small: Problem) -> None:
    shards = list(torch.arange(len(small.x)).split(10))
    one, two = (list(federate(small, shards, rounds=2, local_steps=3, seed=4)) for _ in range(2))
    assert [state.objective for state in one] == [state.objective for state in two]
    wider = replace(small, radius=0.6)
    assert list(federate(wider, shards, rounds=2, local_steps=3))[-1].objective > one[-1].objective
