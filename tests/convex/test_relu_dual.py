"""The ReLU programme's lower bound: below the optimum whatever the multipliers."""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import Tensor

from fedrobust.convex.margins import comparisons
from fedrobust.convex.relu_dual import Comparison, into_ball, lower_bound
from fedrobust.convex.relu_programme import ReluProblem, sample_patterns
from fedrobust.convex.relu_solvers import solve_relu


@pytest.mark.parametrize(("num_classes", "loss"), [(2, "hinge"), (2, "squared"), (2, "logistic"), (3, "hinge")])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_it_is_below_the_optimum_whatever_the_multipliers(
    num_classes: int,
    loss: Literal["hinge", "squared", "logistic"],
    norm: Literal["linf", "l2"],
    blobs: Callable[..., tuple[Tensor, Tensor]],
) -> None:
    x, y = blobs(18, 3, num_classes)
    problem = ReluProblem(x, y, 0.1, 0.02, num_classes, norm, loss)
    optimum = solve_relu(problem, patterns=8)
    patterns = sample_patterns(problem.rows, 8, seed=0)
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64) / len(x)

    bounds = []
    for _ in range(20):
        pairs = []
        for weights, index, sign in comparisons(y, problem.functions):
            move = 0.3 * (random(len(index), 3) - 0.5 / len(x))
            above = (loss == "squared") * random(len(index))
            pairs.append(Comparison(weights, index, sign, random(len(index)), above, move))
        cones = 0.2 * random(2, problem.functions, len(x), len(patterns))
        bounds.append(lower_bound(problem, patterns, pairs, cones))
    assert max(bounds) <= optimum.objective
    assert max(bounds) > 0
    # with a heavier regulariser the same multipliers are feasible as they are: the bound is larger
    heavy = replace(problem, beta=2.0)
    assert lower_bound(heavy, patterns, pairs, cones) > bounds[-1]


def test_projection_on_both_balls() -> None:
    v = torch.tensor([[3.0, -4.0], [0.5, 0.0]]).double()
    radius = torch.tensor([1.0, 1.0]).double()
    assert into_ball(v, radius, "linf").tolist() == [[1, -1], [0.5, 0]]
    assert torch.allclose(into_ball(v, radius, "l2"), torch.tensor([[0.6, -0.8], [0.5, 0.0]]).double())
