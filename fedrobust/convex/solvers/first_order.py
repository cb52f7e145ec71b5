"""The scalable solver: neurons by L-BFGS, one eigendecomposition per step for the whole batch, and a certificate."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

import torch
from torch import Tensor

from fedrobust.convex.dual import lower_bound, moments
from fedrobust.convex.factors import lifted_of, random_factors, rows, signs
from fedrobust.convex.margins import worst_case
from fedrobust.convex.problem import Problem, Solution, nothing, solution
from fedrobust.seeding import torch_stream

SMOOTHING = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005)  # γ of the hinge, one stage each
BOUND_EVERY = 10  # evaluations between lower bounds, which cost an eigendecomposition each


def start(problem: Problem, seed: int) -> Tensor:
    """Draw small random neurons, in dtype and on the device of the samples."""
    generator = torch_stream(seed, "convex", "neurons")
    return random_factors(problem.functions, problem.x.shape[1], generator).to(problem.x)


class Evaluation:
    """The smoothed objective, its gradient by Danskin's theorem, and the dual variables computed with them.

    loss = (1/n) Σ h_γ(1 − w_i) + β Σ‖v‖², h_γ(z) = z²/2γ on [0, γ], z − γ/2 above. With |α| = ‖v‖² the regulariser is
    smooth. ∂w_i/∂H is y_i [x_i′;1][x_i′;1]ᵀ at the worst point x_i′, so one matrix of moments holds the whole gradient.
    Memory n · d + C · d².
    """

    def __init__(self, problem: Problem, factors: Tensor, smoothing: float) -> None:
        with torch.no_grad():
            lifted = lifted_of(factors, problem.activation)
            case = worst_case(lifted.forms, problem.x, problem.y, problem.radius)
            short = (1 - case.margin).clamp(min=0)
            norm = factors.square().sum()
            weights = (short / smoothing).clamp(max=1) / len(short)
            self.total, self.moment = weights.sum(), moments(weights, case.contrast, case.point)
            smoothed = torch.where(short < smoothing, short.square() / (2 * smoothing), short - smoothing / 2)
            self.loss = smoothed.mean() + problem.beta * norm
            self.objective = float(short.mean() + problem.beta * norm)
            # ∂/∂v of −Σ_j ± [v;‖v‖]ᵀ B [v;‖v‖] with B = S ∘ M: the last entry moves with v/‖v‖
            response = problem.activation.scale(factors.shape[2], factors) * self.moment
            turned = signs(factors.shape[1], factors)[:, None] * (rows(factors) @ response)
            length = torch.linalg.vector_norm(factors, dim=-1, keepdim=True)
            unit = factors / length.clamp(min=torch.finfo(factors.dtype).tiny)
            self.gradient = -2 * (turned[..., :-1] + turned[..., -1:] * unit) + 2 * problem.beta * factors

    def lower_bound(self, problem: Problem) -> float:
        """Return a lower bound on the global optimum, from these dual variables."""
        return lower_bound(self.total, self.moment, problem.beta, problem.activation)


def solve_first_order(
    problem: Problem,
    *,
    stage_steps: int = 100,
    tolerance: float = 1e-3,
    seed: int = 0,
    factors: Tensor | None = None,
    watch: Callable[[int, float, float], None] = lambda step, objective, bound: None,
) -> Solution:
    """Minimise over the neurons of a network of 2 (d + 1) units per function; CPU or GPU, float64 or float32.

    The hinge is smoothed, γ = 0.5 → 0.005 in seven stages of at most `stage_steps` steps of L-BFGS each. Networks of
    this width have in general no local minima that are not global (Burer and Monteiro), but the result does not rely on
    that: each stage ends with a lower bound on the global optimum. Deviation: Kuelbs, Lall and Pilanci use a penalty
    method, whose margins are not certificates.

    Args:
        tolerance: relative gap at which to stop early.
        factors: neurons to start from, [C, 2 (d + 1), d].
        watch: called with the stage, the best objective and the best lower bound after each.
    """
    started = perf_counter()
    current = (start(problem, seed) if factors is None else factors).detach().clone().requires_grad_()
    best, objective, bound, evaluations = nothing(problem), 1.0, 0.0, 0
    for stage, smoothing in enumerate(SMOOTHING):
        optimizer = torch.optim.LBFGS(
            [current],
            max_iter=stage_steps,
            max_eval=2 * stage_steps,
            history_size=20,
            tolerance_grad=1e-10,
            tolerance_change=1e-13,
            line_search_fn="strong_wolfe",
        )

        def closure(smoothing: float = smoothing) -> Tensor:
            nonlocal evaluations, bound
            evaluations += 1
            found = Evaluation(problem, current.detach(), smoothing)
            if evaluations % BOUND_EVERY == 0:
                bound = max(bound, found.lower_bound(problem))
            current.grad = found.gradient
            return found.loss

        optimizer.step(closure)
        found = Evaluation(problem, current.detach(), smoothing)
        bound = max(bound, found.lower_bound(problem))
        if found.objective < objective:
            best, objective = lifted_of(current.detach().double(), problem.activation), found.objective
        watch(stage, objective, bound)
        if objective - bound <= tolerance * objective:
            break
    found = solution(problem, best, bound, started=started, rounds=evaluations)
    return found.judged(tolerance, "stages done")
