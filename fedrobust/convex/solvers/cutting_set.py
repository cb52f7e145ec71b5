"""The exact programme at middle size: two semidefinite cones, and linear cuts at the points that an adversary finds."""

from __future__ import annotations

from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedrobust.convex.dual import lower_bound, moments
from fedrobust.convex.margins import worst_case
from fedrobust.convex.network import Lifted, lift, recover
from fedrobust.convex.problem import Problem, Solution, nothing, solution
from fedrobust.convex.solvers.sdp import Model, as_numpy, solve_with

VIOLATED = 1e-6  # a cut is added if it would change the hinge by more


def solve_cutting_set(
    problem: Problem, *, solver: str = "clarabel", tolerance: float = 1e-3, max_rounds: int = 60
) -> Solution:
    """Find the global optimum by cuts: the master demands margins at some perturbed samples, the adversary adds the
    worst.

    Master: min (1/n) Σ ξ_i + β (Z₄ + Z₄′) over Z, Z′ ⪰ 0 with tr Z₁ = Z₄ and ξ_i ≥ 1 − y f(x_i′) for the x_i′ so far,
    first the samples themselves. Its optimum is below the programme's, and the objective of the network that it found,
    worst cases exact, is above it; the solver stops when the two meet. With r = 0 one round is enough.

    Args:
        tolerance: relative gap at which the solution counts as optimal.

    Raises:
        ConfigError: cvxpy is not installed.
        RunFailed: the solver found no solution.
    """
    started = perf_counter()
    cuts = _Cuts(problem)
    forms = nothing(problem).forms
    samples = problem.x.double().cpu()
    y = problem.y.cpu()
    case = worst_case(forms, samples, y, 0.0)
    cuts.add(samples, case.contrast, torch.arange(len(samples)))
    best, objective, bound, rounds = nothing(problem), np.inf, 0.0, 0
    while rounds < max_rounds:
        rounds += 1
        found, below = cuts.solve(solver)
        # feasible exactly, so that its objective is attained
        found = lift(recover(found))
        bound = max(bound, below)
        value = problem.objective(found)
        if value < objective:
            best, objective = found, value
        if objective - bound <= tolerance * objective:
            break
        case = worst_case(found.forms, samples, y, problem.radius)
        violated = (case.margin < 1 - VIOLATED).nonzero().flatten()
        cuts.add(case.point[violated], case.contrast[violated], violated)
    result = solution(problem, best, bound, started=started, rounds=rounds)
    return result.judged(tolerance, "rounds done")


class _Cuts:
    """The master programme with the cuts added so far."""

    def __init__(self, problem: Problem) -> None:
        self.problem, self.model = problem, Model(problem)
        self.samples = len(as_numpy(problem))
        self.points: list[Tensor] = []
        self.contrasts: list[Tensor] = []
        self.owners: list[Tensor] = []
        self.slack = self.model.cp.Variable(self.samples, nonneg=True)
        self.constraints: list[Any] = []

    def add(self, points: Tensor, contrasts: Tensor, owners: Tensor) -> None:
        """Demand ξ_i ≥ 1 − Σ_c y_c f_c(x′) at these points x′ [k, d] of samples i [k], with y [k, C]."""
        if not len(points):
            return
        cp = self.model.cp
        self.points.append(points)
        self.contrasts.append(contrasts)
        self.owners.append(owners)
        ones = np.ones((len(points), 1))
        rows = np.hstack([points.numpy(), ones])
        products = (rows[:, :, None] * rows[:, None, :]).reshape(len(rows), -1)
        margin = 0
        for function, form in enumerate(self.model.forms):
            weighted = contrasts[:, function : function + 1].numpy() * products
            margin = margin + weighted @ cp.vec(form, order="C")
        self.constraints.append(self.slack[owners.numpy()] >= 1 - margin)

    def solve(self, solver: str) -> tuple[Lifted, float]:
        """Return the master's optimum, and a lower bound on the programme's from its dual variables."""
        cp, problem = self.model.cp, self.problem
        objective = cp.sum(self.slack) / self.samples + problem.beta * self.model.path_norm
        programme = cp.Problem(cp.Minimize(objective), [*self.model.constraints, *self.constraints])
        solve_with(programme, solver)
        weights = torch.cat([torch.from_numpy(np.atleast_1d(cut.dual_value)) for cut in self.constraints]).clamp(min=0)
        owners = torch.cat(self.owners)
        total = torch.zeros(self.samples, dtype=torch.float64).index_add(0, owners, weights)
        weights = weights / (self.samples * total).clamp(min=1)[owners]
        moment = moments(weights, torch.cat(self.contrasts), torch.cat(self.points))
        return self.model.lifted(), lower_bound(weights.sum(), moment, problem.beta, problem.activation)
