"""The ReLU programme solved: by cvxpy where it is small, by gradients where it is large."""

from __future__ import annotations

from time import perf_counter

import numpy as np
import torch
from torch import Tensor

from fedrobust.convex.margins import comparisons
from fedrobust.convex.modelling import import_cvxpy, solve_with
from fedrobust.convex.relu import (
    ReluProblem,
    ReluSolution,
    recover_relu,
    relative_violation,
    sample_patterns,
    violation,
)
from fedrobust.seeding import torch_stream

PENALTY = 1.0  # weight of the cones' violation
SMOOTHING = 0.02  # γ of the hinge


def solve_relu(problem: ReluProblem, *, patterns: int = 20, seed: int = 0, solver: str = "clarabel") -> ReluSolution:
    """By cvxpy: a second-order cone programme, up to some hundred samples and tens of patterns.

    Raises:
        ConfigError: cvxpy is not installed.
        RunFailed: the solver found nothing.
    """
    started, cp = perf_counter(), import_cvxpy()
    masks = sample_patterns(problem.x, patterns, seed)
    x, radius, order = problem.x.cpu().double().numpy(), problem.radius, problem.dual_order
    shape = (len(masks), x.shape[1])
    plus, minus = ([cp.Variable(shape) for _ in range(problem.functions)] for _ in range(2))
    constraints, d = [], masks.cpu().double().numpy()
    for vectors in (*plus, *minus):
        inside = cp.multiply((2 * d - 1).T, x @ vectors.T)
        constraints.append(inside >= radius * cp.reshape(cp.norm(vectors, order, axis=1), (1, shape[0]), order="C"))
    margin = cp.Variable(len(x))
    excess = cp.Variable(len(x))
    for weights, index, sign in comparisons(problem.y.cpu(), problem.functions):
        pairs = zip(weights, plus, minus, strict=True)
        difference = sum(weight * (v - w) for weight, v, w in pairs if weight)
        rows, side = index.numpy(), sign.numpy().astype(np.float64)
        slopes = d.T[rows] @ difference
        values = cp.multiply(side, cp.sum(cp.multiply(x[rows], slopes), axis=1))
        blurred = radius * cp.norm(slopes, order, axis=1)
        constraints += [margin[rows] <= values - blurred, excess[rows] >= values + blurred]
    loss = cp.pos(1 - margin)
    if problem.loss == "squared":
        loss = cp.square(cp.pos(cp.maximum(1 - margin, excess - 1)))
    norms = sum(cp.sum(cp.norm(vectors, 2, axis=1)) for vectors in (*plus, *minus))
    programme = cp.Problem(cp.Minimize(cp.sum(loss) / len(x) + problem.beta * norms), constraints)
    solve_with(programme, solver)
    found = (torch.from_numpy(np.stack([part.value for part in parts], 1)) for parts in (plus, minus))
    return _recovered(problem, masks, *found, status=str(programme.status), started=started)


def solve_relu_first_order(
    problem: ReluProblem, *, patterns: int = 50, seed: int = 0, steps: int = 1000, learning_rate: float = 0.03
) -> ReluSolution:
    """By Adam on v and w, its rate falling along a cosine, the cones as a penalty, the hinge smoothed; CPU or GPU.

    Memory n · (P + d) · C for P patterns. Vectors may end outside their cones (`ReluSolution.violation`): then the
    objective is that of the recovered network, its margins bounded soundly, and may be below the programme's optimum.
    """
    started = perf_counter()
    masks = sample_patterns(problem.x, patterns, seed)
    generator = torch_stream(seed, "convex", "relu")
    shape = 2, len(masks), problem.functions, problem.x.shape[1]
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
    """The programme's objective, its hinge and norms smoothed."""
    slopes = torch.einsum("pn,pcd->ncd", masks, vectors[0] - vectors[1])
    shifted = torch.full((len(problem.x),), torch.inf, dtype=slopes.dtype, device=slopes.device)
    excess = -shifted
    for weights, index, sign in comparisons(problem.y, problem.functions):
        slope = torch.einsum("c,ncd->nd", slopes.new_tensor(weights), slopes[index])
        value = sign.to(slope.dtype) * (problem.x[index] * slope).sum(1)
        blurred = problem.radius * torch.linalg.vector_norm(slope, ord=problem.dual_order, dim=1)
        shifted = shifted.index_put((index,), torch.minimum(shifted[index], value - blurred))
        excess = excess.index_put((index,), torch.maximum(excess[index], value + blurred))
    short = (1 - shifted).clamp(min=0)
    if problem.loss == "squared":
        loss = torch.maximum(short, excess - 1).square()
    else:
        loss = torch.where(short < SMOOTHING, short.square() / (2 * SMOOTHING), short - SMOOTHING / 2)
    lengths = (vectors.square().sum(3) + 1e-12).sqrt()
    return loss.mean() + problem.beta * lengths.sum()


def _recovered(
    problem: ReluProblem, masks: Tensor, plus: Tensor, minus: Tensor, *, status: str, started: float
) -> ReluSolution:
    network = recover_relu(plus, minus)
    double = ReluProblem(
        problem.x.double(), problem.y, problem.radius, problem.beta, problem.num_classes, problem.norm, problem.loss
    )
    outside = relative_violation(masks.double(), double, plus.to(double.x), minus.to(double.x))
    return ReluSolution(network, problem.objective(network), status, perf_counter() - started, outside)
