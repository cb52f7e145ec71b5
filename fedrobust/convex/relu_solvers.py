"""Solvers of the ReLU programme: cvxpy for small ones, gradients for large ones."""

from __future__ import annotations

from dataclasses import replace
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fedrobust.convex.logistic import rivals
from fedrobust.convex.margins import comparisons
from fedrobust.convex.relu_dual import Comparison, lower_bound
from fedrobust.convex.relu_programme import (
    ReluProblem,
    ReluSolution,
    loss_of,
    recover_relu,
    relative_violation,
    sample_patterns,
    violation,
)
from fedrobust.convex.solvers.sdp import import_cvxpy, solve_with
from fedrobust.seeding import torch_stream

PENALTY = 1.0  # weight of the cones' violation
SMOOTHING = 0.02  # γ of the hinge


def solve_relu(problem: ReluProblem, *, patterns: int = 20, seed: int = 0, solver: str = "clarabel") -> ReluSolution:
    """Solve by cvxpy: a second-order cone programme, up to some hundred samples and tens of patterns; with a lower
    bound.

    Raises:
        ConfigError: cvxpy is not installed.
        RunFailed: the solver found no solution.
    """
    started, cp = perf_counter(), import_cvxpy()
    problem = replace(problem, x=problem.x.cpu().double(), y=problem.y.cpu())
    masks = sample_patterns(problem.rows, patterns, seed)
    x, d, radius = problem.rows.numpy(), masks.numpy(), problem.radius
    plus, minus = ([cp.Variable((len(d), x.shape[1])) for _ in range(problem.functions)] for _ in range(2))
    cones = [_cone(cp, problem, x, d, vectors) for vectors in (*plus, *minus)]
    below = cp.Variable((len(x), max(1, problem.functions - 1)))
    above = cp.Variable(len(x))
    pairs = []
    for weights, index, sign in comparisons(problem.y, problem.functions):
        difference = sum(weight * (v - w) for weight, v, w in zip(weights, plus, minus, strict=True) if weight)
        slopes = d.T[index.numpy()] @ difference
        values = cp.multiply(sign.double().numpy(), cp.sum(cp.multiply(x[index.numpy()], slopes), axis=1))
        rival = rivals(weights, sign)
        column = rival - (rival > problem.y[index]).long() if problem.functions > 1 else rival
        reach = cp.Variable(len(index))
        ball = _ball(cp, problem, slopes[:, :-1], reach)
        least = below[index.numpy(), column.numpy()] <= values - radius * reach
        greatest = [above[index.numpy()] >= values + radius * reach] if problem.loss == "squared" else []
        pairs.append((weights, index, sign, least, greatest, ball))
    norms = sum(cp.sum(cp.norm(vectors, 2, axis=1)) for vectors in (*plus, *minus))
    constraints = [*cones, *(c for *_, least, greatest, ball in pairs for c in (least, *greatest, *ball))]
    loss = cp.sum(_loss_of(cp, problem, below, above)) / len(x)
    programme = cp.Problem(cp.Minimize(loss + problem.beta * norms), constraints)
    solve_with(programme, solver)
    vectors = (torch.from_numpy(np.stack([part.value for part in parts], 1)) for parts in (plus, minus))
    found = _recovered(problem, masks, *vectors, status=str(programme.status), started=started)
    multipliers = torch.stack([_dual(cone) for cone in cones]).unflatten(0, (2, -1))
    bound = lower_bound(problem, masks, [_comparison(problem, *pair) for pair in pairs], multipliers)
    return replace(found, lower_bound=max(bound, 0.0))


def _cone(cp: Any, problem: ReluProblem, x: np.ndarray, d: np.ndarray, vectors: Any) -> Any:
    """Return the constraint (2D − I) X v ≥ ε ‖v‖* for every pattern."""
    inside = cp.multiply((2 * d - 1).T, x @ vectors.T)
    length = cp.norm(vectors[:, :-1], problem.dual_order, axis=1)
    return inside >= problem.radius * cp.reshape(length, (1, len(d)), order="C")


def _ball(cp: Any, problem: ReluProblem, slopes: Any, reach: Any) -> list[Any]:
    """Constrain reach ≥ ‖u‖* for every row of u; the constraints' multipliers give each sample's worst point in the
    ball.
    """
    if problem.norm == "l2":
        return [cp.SOC(reach, slopes, axis=1)]
    sizes = cp.Variable(slopes.shape)
    return [slopes <= sizes, -slopes <= sizes, cp.sum(sizes, axis=1) <= reach]


def _loss_of(cp: Any, problem: ReluProblem, below: Any, above: Any) -> Any:
    """Return the loss as a cvxpy expression, as `relu_programme.loss_of`."""
    if problem.loss == "logistic":
        return cp.log_sum_exp(cp.hstack([np.zeros((below.shape[0], 1)), -below]), axis=1)
    short = cp.pos(1 - cp.min(below, axis=1))
    return cp.square(cp.maximum(short, above - 1)) if problem.loss == "squared" else short


def _comparison(
    problem: ReluProblem, weights: list[int], index: Tensor, sign: Tensor, least: Any, greatest: list[Any], ball: Any
) -> Comparison:
    if problem.norm == "l2":
        move = -torch.from_numpy(np.asarray(ball[0].dual_value[1]))
    else:
        move = torch.from_numpy(ball[0].dual_value - ball[1].dual_value)
    below = _dual(least)
    return Comparison(weights, index, sign, below, _dual(greatest[0]) if greatest else 0 * below, move)


def _dual(constraint: Any) -> Tensor:
    return torch.from_numpy(np.atleast_1d(constraint.dual_value)).clamp(min=0)


def solve_relu_first_order(
    problem: ReluProblem, *, patterns: int = 50, seed: int = 0, steps: int = 500, learning_rate: float = 0.1
) -> ReluSolution:
    """Solve by Adam on v and w, with a cosine learning rate, the cones as a penalty, the hinge smoothed; CPU or GPU.

    Memory n · (P + d) · C for P patterns. Vectors may end outside their cones (`ReluSolution.violation`): then the
    objective is that of the recovered network, its margins bounded soundly, and may be below the programme's optimum.
    """
    started = perf_counter()
    masks = sample_patterns(problem.rows, patterns, seed)
    generator = torch_stream(seed, "convex", "relu")
    shape = 2, len(masks), problem.functions, problem.x.shape[1] + 1
    vectors = (0.1 * torch.randn(shape, generator=generator, dtype=torch.float64)).to(problem.x).requires_grad_()
    optimizer = torch.optim.Adam([vectors], lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        outside = sum(violation(masks, problem, part).sum((1, 2)).mean() for part in vectors)
        loss = _loss(problem, masks, vectors) + PENALTY * outside
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    plus, minus = vectors.detach().double()
    return _recovered(problem, masks, plus, minus, status="steps done", started=started)


def _loss(problem: ReluProblem, masks: Tensor, vectors: Tensor) -> Tensor:
    """Compute the programme's objective, its hinge and norms smoothed."""
    slopes = torch.einsum("pn,pcd->ncd", masks, vectors[0] - vectors[1])
    if problem.functions == 1:
        ahead = (2 * problem.y - 1)[:, None, None] * slopes
        own = torch.zeros_like(problem.y[:, None], dtype=torch.bool)
    else:
        ahead = slopes[torch.arange(len(slopes), device=slopes.device), problem.y][:, None] - slopes
        own = F.one_hot(problem.y, problem.functions).bool()
    value = torch.einsum("nd,ncd->nc", problem.rows, ahead)
    blurred = problem.radius * torch.linalg.vector_norm(ahead[..., :-1], ord=problem.dual_order, dim=2)
    below, above = (value - blurred).masked_fill(own, torch.inf), (value + blurred).masked_fill(own, -torch.inf)
    loss = loss_of(problem.loss, below, above)
    if problem.loss == "hinge":
        loss = torch.where(loss < SMOOTHING, loss.square() / (2 * SMOOTHING), loss - SMOOTHING / 2)
    lengths = (vectors.square().sum(3) + 1e-12).sqrt()
    return loss.mean() + problem.beta * lengths.sum()


def _recovered(
    problem: ReluProblem, masks: Tensor, plus: Tensor, minus: Tensor, *, status: str, started: float
) -> ReluSolution:
    network = recover_relu(plus, minus)
    double = replace(problem, x=problem.x.double())
    outside = relative_violation(masks.double(), double, plus.to(double.x), minus.to(double.x))
    return ReluSolution(network, problem.objective(network), 0.0, status, perf_counter() - started, outside)
