"""The three solvers: the same optimum, and bounds that hold."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from fedrobust.convex.dual import largest_response, lower_bound, moments
from fedrobust.convex.factors import lifted_of
from fedrobust.convex.margins import worst_case
from fedrobust.convex.network import Activation, Lifted, PolynomialNetwork, lift, neurons, values
from fedrobust.convex.problem import Problem, Solution, nothing
from fedrobust.convex.solvers import sdp
from fedrobust.convex.solvers.cutting_set import solve_cutting_set
from fedrobust.convex.solvers.first_order import SMOOTHING, Evaluation, solve_first_order, start
from fedrobust.convex.solvers.sdp import solve_sdp
from fedrobust.errors import ConfigError, RunFailed


@pytest.fixture(scope="module")
def exact(small: Problem) -> Solution:
    return solve_sdp(small)


def test_two_exact_solvers_and_the_first_order_one_agree(small: Problem, exact: Solution) -> None:
    cuts, first = solve_cutting_set(small, tolerance=1e-5), solve_first_order(small)
    for found in (exact, cuts):
        assert found.status == "optimal"
        assert found.gap < 1e-3
        assert found.lifted.residual() < 1e-9
    assert cuts.objective == pytest.approx(exact.objective, rel=1e-3)
    assert first.objective == pytest.approx(exact.objective, rel=0.03)
    # every lower bound lies below every objective
    assert max(found.lower_bound for found in (exact, cuts, first)) <= min(
        found.objective for found in (exact, cuts, first)
    )
    assert first.gap < 0.03


def test_scs_agrees_with_clarabel(blobs: Callable[..., tuple[Tensor, Tensor]]) -> None:
    x, y = blobs(12, 2)
    problem = Problem(x, y, radius=0.3, beta=0.02)
    scs = solve_sdp(problem, solver="scs")
    assert scs.status == "optimal"
    assert scs.objective == pytest.approx(solve_sdp(problem).objective, rel=1e-3)


@pytest.mark.parametrize("radius", [0.0, 0.4])
def test_three_classes(radius: float, blobs: Callable[..., tuple[Tensor, Tensor]]) -> None:
    x, y = blobs(18, 2, 3)
    problem = Problem(x, y, radius=radius, beta=0.02, num_classes=3)
    sdp, cuts, first = solve_sdp(problem), solve_cutting_set(problem, tolerance=1e-4), solve_first_order(problem)
    assert sdp.gap < 1e-3
    assert cuts.objective == pytest.approx(sdp.objective, rel=1e-3)
    assert first.objective == pytest.approx(sdp.objective, rel=0.03)
    assert first.lower_bound <= sdp.objective


def test_objective_rises_with_the_radius(small: Problem) -> None:
    objectives = [solve_cutting_set(replace(small, radius=radius)).objective for radius in (0.0, 0.3, 0.6)]
    assert objectives == sorted(objectives)
    assert objectives[0] < objectives[2]


def test_large_beta_gives_the_network_without_neurons(small: Problem) -> None:
    found = solve_first_order(replace(small, beta=1e3))
    assert found.objective == pytest.approx(1)
    assert found.lower_bound == pytest.approx(1)
    assert found.status == "optimal"


def test_no_network_is_below_the_lower_bound(
    small: Problem, exact: Solution, random_network: Callable[..., Lifted]
) -> None:
    for seed in range(20):
        assert small.objective(random_network(3, seed=seed)) >= exact.lower_bound


def test_linear_matrix_inequality_is_the_trust_region_minimum(
    random_network: Callable[..., Lifted], blobs: Callable[..., tuple[Tensor, Tensor]]
) -> None:
    cp = sdp.import_cvxpy()
    lifted, (x, y) = random_network(4, units=10, seed=3), blobs(4, 4)
    expected = worst_case(lifted.forms, x, y, 0.6).margin
    form = lifted.forms[0].numpy()
    for sample in range(4):
        margin, multiplier = cp.Variable(), cp.Variable(nonneg=True)
        shift = np.eye(5)
        shift[:4, 4] = x[sample].numpy()
        corner = np.zeros((5, 5))
        corner[4, 4] = 1
        side = 2 * int(y[sample]) - 1
        matrix = side * shift.T @ form @ shift + multiplier * np.diag([1, 1, 1, 1, -0.36]) - margin * corner
        cp.Problem(cp.Maximize(margin), [matrix >> 0]).solve(solver="CLARABEL")
        assert float(margin.value) == pytest.approx(expected[sample].item(), abs=1e-6)


def test_recovered_network_is_the_lifted_one_and_small(exact: Solution, small: Problem) -> None:
    network = exact.network
    assert len(network.directions) <= 2 * (small.x.shape[1] + 1)
    assert torch.allclose(network.directions.norm(dim=1), torch.ones(len(network.directions), dtype=torch.float64))
    logits = network(small.x)
    assert torch.allclose(logits[:, 1] - logits[:, 0], values(exact.lifted.forms, small.x)[:, 0], atol=1e-9)
    assert exact.lifted.path_norm.item() == pytest.approx(network.weights.abs().sum().item())


def test_neurons_of_a_matrix_with_many() -> None:
    generator = torch.Generator().manual_seed(0)
    unit = torch.nn.functional.normalize(torch.randn(40, 6, generator=generator, dtype=torch.float64))
    sizes = torch.rand(40, generator=generator, dtype=torch.float64)
    rows = torch.cat([unit, torch.ones(40, 1, dtype=torch.float64)], 1)
    matrix = torch.einsum("m,mi,mj->ij", sizes, rows, rows)
    found, weights = neurons(matrix)
    assert len(found) <= 7
    again = torch.cat([found, torch.ones(len(found), 1, dtype=torch.float64)], 1)
    assert torch.allclose(torch.einsum("m,mi,mj->ij", weights, again, again), matrix, atol=1e-10)
    assert (weights > 0).all()
    none, _ = neurons(torch.zeros(7, 7, dtype=torch.float64))
    assert none.shape == (0, 6)


def test_gradient_of_the_first_order_solver(small: Problem) -> None:
    factors = start(small, 3) * 2
    found = Evaluation(small, factors, 0.5)
    generator = torch.Generator().manual_seed(1)
    direction = torch.randn(factors.shape, generator=generator, dtype=torch.float64)
    step = 1e-6
    slope = (
        Evaluation(small, factors + step * direction, 0.5).loss
        - Evaluation(small, factors - step * direction, 0.5).loss
    ) / (2 * step)
    assert (found.gradient * direction).sum().item() == pytest.approx(slope.item(), rel=1e-5)
    assert found.objective == pytest.approx(small.objective(lifted_of(factors, small.activation)), rel=1e-9)


def test_float32(small: Problem) -> None:
    single = replace(small, x=small.x.float())
    found, double = solve_first_order(single), solve_first_order(small)
    assert found.objective == pytest.approx(double.objective, rel=1e-2)
    assert found.lower_bound <= double.objective
    assert found.lower_bound == pytest.approx(double.lower_bound, rel=0.05)


def test_lower_bound_is_scaled_to_be_feasible(small: Problem) -> None:
    # any weights and points: here all weights, at the samples themselves
    case = worst_case(nothing(small).forms, small.x, small.y, 0.0)
    weights = torch.full((30,), 1 / 30, dtype=torch.float64)
    moment = moments(weights, case.contrast, small.x)
    bound = lower_bound(weights.sum(), moment, small.beta, small.activation)
    assert 0 < bound <= solve_first_order(small).objective
    response = largest_response(moment, small.activation)
    assert bound == pytest.approx(small.beta / response)
    # the response is the largest over unit directions
    unit = torch.nn.functional.normalize(
        torch.randn(20_000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    )
    each = (small.activation(unit @ small.x.T) * (weights * case.contrast[:, 0])).sum(1).abs()
    assert each.max() <= response + 1e-12
    assert each.max() == pytest.approx(response, rel=1e-2)


def test_activation_scale_is_its_polynomial() -> None:
    activation = Activation(0.2, -0.3, 0.7)
    unit = torch.tensor([[0.6, 0.8]]).double()
    network = PolynomialNetwork(unit, torch.tensor([[2.0]]).double(), activation)
    x = torch.tensor([[1.0, -2.0], [0.5, 0.25]]).double()
    expected = 2 * activation(x @ unit.T)
    assert torch.allclose(values(lift(network).forms, x), expected)
    assert torch.allclose(network(x).diff(dim=1), expected)


def test_without_cvxpy_the_message_is_one_line(small: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(sdp, "import_module", missing)
    with pytest.raises(ConfigError, match=r"^clarabel is not installed: pip install 'fedrobust\[convex\]'$"):
        solve_sdp(small)


def test_a_solver_that_fails_says_so(small: Problem) -> None:
    with pytest.raises(ConfigError, match="must be one of clarabel, scs"):
        solve_sdp(small, solver="mosek")
    cp = sdp.import_cvxpy()
    variable = cp.Variable()
    with pytest.raises(RunFailed, match="clarabel ended with status 'infeasible'"):
        sdp.solve_with(cp.Problem(cp.Minimize(variable), [variable >= 1, variable <= 0]), "clarabel")


def test_stages_end_early_when_the_gap_is_reached(small: Problem) -> None:
    seen: list[int] = []
    found = solve_first_order(small, tolerance=0.5, watch=lambda stage, *_: seen.append(stage))
    assert found.status == "optimal"
    assert len(seen) < len(SMOOTHING)
