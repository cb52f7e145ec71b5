"""The ReLU programme: recovery, sound margins, two solvers."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fedrobust.convex.relu_programme import ReluNetwork, ReluProblem, margins, sample_patterns
from fedrobust.convex.relu_solvers import solve_relu, solve_relu_first_order
from fedrobust.convex_study.baselines import attacked
from fedrobust.errors import ConfigError


def plain_margins(network: ReluNetwork, x: Tensor, y: Tensor) -> Tensor:
    logits = network(x).detach()
    label = torch.nn.functional.one_hot(y, logits.shape[1]).bool()
    return logits[label] - logits.masked_fill(label, -torch.inf).amax(1)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("loss", ["hinge", "squared", "logistic"])
def test_recovered_network_has_the_programmes_value(
    norm: str, loss: str, blobs: Callable[..., tuple[Tensor, Tensor]]
) -> None:
    x, y = blobs(25, 3)
    objectives = []
    for radius in (0.0, 0.05, 0.15):
        problem = ReluProblem(x, y, radius, 0.01, norm=norm, loss=loss)  # type: ignore[arg-type]
        found = solve_relu(problem, patterns=12)
        assert found.status == "optimal"
        assert found.violation < 1e-6
        # the lower bound is computed from the solver's multipliers, and meets the network's value
        assert 0 <= found.gap < 1e-3
        objectives.append(found.objective)
        # the pattern holds in every ball: the margin is attained
        certified = margins(found.network, x, y, radius, norm)  # type: ignore[arg-type]
        generator = torch.Generator().manual_seed(0)
        settings = {"steps": 30, "restarts": 3, "generator": generator}
        worst = attacked(found.network, x, y, radius=radius, norm=norm, **settings)  # type: ignore[arg-type]
        reached = plain_margins(found.network, worst, y)
        assert (reached >= certified - 1e-6).all()
        assert ((reached - certified) < 0.02 * (1 + certified.abs())).double().mean() > 0.9
    assert objectives == sorted(objectives)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_first_order_is_near_the_exact_solver(num_classes: int, blobs: Callable[..., tuple[Tensor, Tensor]]) -> None:
    x, y = blobs(30, 3, num_classes)
    problem = ReluProblem(x, y, 0.05, 0.01, num_classes=num_classes)
    exact, first = solve_relu(problem, patterns=10), solve_relu_first_order(problem, patterns=10)
    # its vectors may leave their cones, so that it may be below the programme's optimum, by little
    assert first.violation < 0.5
    assert 0.9 * exact.objective < first.objective < 1.1 * exact.objective


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("functions", [1, 3])
def test_margins_are_sound_for_any_network(
    norm: str, functions: int, blobs: Callable[..., tuple[Tensor, Tensor]]
) -> None:
    x, y = blobs(20, 4, max(2, functions))
    generator = torch.Generator().manual_seed(1)
    first = torch.randn(12, 5, generator=generator, dtype=torch.float64)
    second = torch.randn(functions, 12, generator=generator, dtype=torch.float64)
    network = ReluNetwork(first, second)
    assert torch.allclose(margins(network, x, y, 0.0, norm), plain_margins(network, x, y))  # type: ignore[arg-type]
    for radius in (0.05, 0.5):
        bound = margins(network, x, y, radius, norm)  # type: ignore[arg-type]
        worst = attacked(network, x, y, radius=radius, norm=norm, steps=40, restarts=5, generator=generator)  # type: ignore[arg-type]
        assert (plain_margins(network, worst, y) >= bound - 1e-9).all()


def test_patterns_are_distinct_and_the_samples_own() -> None:
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]]).double()
    patterns = sample_patterns(x, 200, seed=0)
    # the first two are opposite, the third is free; the last unit vector sees all on its own side or at 0
    assert len(patterns) == 5
    assert (patterns[:, 0] + patterns[:, 1] == 1).sum() == 4


def test_a_linear_problem_in_closed_form() -> None:
    # one sample at 1 of class 1, one dimension: f(1 − ε) = (1 − ε) v + b reaches 1 at the least length of (v, b)
    problem = ReluProblem(torch.ones(1, 1).double(), torch.tensor([1]), 0.2, 0.1)
    found = solve_relu(problem, patterns=4)
    assert found.objective == pytest.approx(0.1 / (0.8**2 + 1) ** 0.5, abs=1e-6)


def test_squared_loss_is_for_two_classes() -> None:
    with pytest.raises(ConfigError, match="squared for two classes"):
        ReluProblem(torch.ones(3, 1), torch.arange(3), 0.1, 0.1, num_classes=3, loss="squared")
