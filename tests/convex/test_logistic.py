"""The logistic loss on the worst case against every rival: its limit, its gradient, its certified optimum."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fedrobust.convex.factors import FactorNetwork, random_factors
from fedrobust.convex.logistic import Logistic, LogisticProblem, entropy, solve_logistic
from fedrobust.convex.network import Lifted, as_logits, values
from fedrobust.convex_study.baselines import attacked, train_the_usual_way
from fedrobust.losses import cross_entropy


@pytest.mark.parametrize("num_classes", [2, 3])
def test_radius_zero_is_the_cross_entropy(
    num_classes: int, random_network: Callable[..., Lifted], blobs: Callable[..., tuple[Tensor, Tensor]]
) -> None:
    lifted, (x, y) = random_network(4, 1 if num_classes == 2 else 3), blobs(20, 4, num_classes)
    problem = LogisticProblem(x, y, 0.0, 0.1, num_classes)
    expected = F.cross_entropy(as_logits(values(lifted.forms, x)), y) + 0.1 * lifted.path_norm
    assert problem.objective(lifted) == pytest.approx(expected.item())


@pytest.mark.parametrize("num_classes", [2, 3])
def test_it_is_above_the_cross_entropy_of_any_attack(
    num_classes: int, blobs: Callable[..., tuple[Tensor, Tensor]]
) -> None:
    x, y = blobs(20, 4, num_classes)
    problem = LogisticProblem(x, y, 0.6, 0.1, num_classes)
    factors = random_factors(problem.functions, 4, torch.Generator().manual_seed(3))
    network = FactorNetwork(3 * factors)
    settings = {"steps": 30, "restarts": 3, "generator": torch.Generator().manual_seed(0)}
    worst = attacked(network, x, y, radius=0.6, norm="l2", **settings)  # type: ignore[arg-type]
    with torch.no_grad():
        lifted = network.lifted()
        found = cross_entropy(network(worst), y).mean() + 0.1 * lifted.path_norm
    above = problem.objective(lifted) - float(found)
    # with one rival only they are equal
    assert -1e-9 <= above < (1e-3 if num_classes == 2 else 0.5)


def test_the_gradient_is_by_danskin(blobs: Callable[..., tuple[Tensor, Tensor]]) -> None:
    x, y = blobs(20, 3, 3)
    problem = LogisticProblem(x, y, 0.4, 0.1, 3)
    factors = 2 * random_factors(3, 3, torch.Generator().manual_seed(0))
    direction = torch.randn(factors.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    network = FactorNetwork(factors)
    lifted = network.lifted()
    surrogate = problem.beta * lifted.path_norm - (Logistic(problem, lifted).moment * lifted.forms).sum()
    (gradient,) = torch.autograd.grad(surrogate, network.factors)
    h = 1e-5
    with torch.no_grad():
        up, down = (problem.objective(FactorNetwork(factors + sign * h * direction).lifted()) for sign in (1, -1))
    assert (gradient * direction).sum().item() == pytest.approx((up - down) / (2 * h), rel=1e-5)


@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize("radius", [0.0, 0.3])
def test_the_optimum_is_certified(num_classes: int, radius: float, blobs: Callable[..., tuple[Tensor, Tensor]]) -> None:
    x, y = blobs(30, 3, num_classes)
    problem = LogisticProblem(x, y, radius, 0.02, num_classes)
    found = solve_logistic(problem)
    assert found.status == "optimal"
    assert found.objective == pytest.approx(problem.objective(found.lifted))
    usual = train_the_usual_way(problem, "pgd", epochs=20)
    assert found.lower_bound <= found.objective <= usual.objective
    # any network gives a bound below the optimum
    bound = Logistic(problem, usual.lifted).lower_bound(problem)
    assert 0 < bound <= found.objective


def test_entropy_is_the_conjugate() -> None:
    generator = torch.Generator().manual_seed(0)
    w = 3 * torch.randn(200, 4, generator=generator, dtype=torch.float64)
    zero = torch.zeros_like(w[:, :1])
    loss = torch.logsumexp(torch.cat([zero, -w], 1), 1)
    best = torch.softmax(torch.cat([zero, -w], 1), 1)[:, 1:]
    other = torch.softmax(torch.randn(200, 5, generator=generator, dtype=torch.float64), 1)[:, 1:]
    assert torch.allclose(entropy(best) - (best * w).sum(1), loss)
    assert (entropy(other) - (other * w).sum(1) <= loss).all()
