"""The exact programme in full, a linear matrix inequality per sample, in cvxpy (an optional extra)."""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fedrobust.convex.network import Lifted
from fedrobust.convex.problem import Problem
from fedrobust.errors import ConfigError, RunFailed

if TYPE_CHECKING:
    import cvxpy


from time import perf_counter

from torch import Tensor

from fedrobust.convex.dual import lower_bound
from fedrobust.convex.margins import comparisons
from fedrobust.convex.problem import Solution, solution

SOLVERS = {"clarabel": "CLARABEL", "scs": "SCS"}
# SCS tighter than its default: figures are compared to six digits. Clarabel's own regularisation, 1e-8, ends in a
# numerical error at n = 455, d = 30
OPTIONS = {
    "CLARABEL": {"static_regularization_constant": 1e-7},
    "SCS": {"eps_abs": 1e-7, "eps_rel": 1e-7, "max_iters": 200_000},
}
USABLE = ("optimal", "optimal_inaccurate", "user_limit")


def import_cvxpy() -> Any:
    """Return the module. Raise ConfigError, one line, if it or a solver is not installed."""
    try:
        for name in ("clarabel", "scs"):
            import_module(name)
        return import_module("cvxpy")
    except ImportError as error:
        raise ConfigError(f"{error.name} is not installed: pip install 'fedrobust[convex]'") from error


class Model:
    """Variables (Z, Z′) of a problem, with their cones and traces.

    Attributes:
        positive, negative: Z and Z′, one each per function.
        forms: H_c as expressions.
        constraints: Z, Z′ ⪰ 0 and tr Z₁ = Z₄.
        path_norm: ‖α‖₁.
    """

    def __init__(self, problem: Problem) -> None:
        self.cp = import_cvxpy()
        size = problem.x.shape[1] + 1
        self.positive, self.negative = (
            [self.cp.Variable((size, size), PSD=True) for _ in range(problem.functions)] for _ in range(2)
        )
        both = [*self.positive, *self.negative]
        self.constraints = [self.cp.trace(z[:-1, :-1]) == z[-1, -1] for z in both]
        scale = problem.activation.scale(size - 1, torch.empty(0, dtype=torch.float64)).numpy()
        pairs = zip(self.positive, self.negative, strict=True)
        self.forms = [self.cp.multiply(scale, plus - minus) for plus, minus in pairs]
        self.path_norm = sum(z[-1, -1] for z in both)
        self._activation = problem.activation

    def form(self, weights: list[int]) -> Any:
        """Return Σ_c weights_c H_c."""
        return sum(weight * form for weight, form in zip(weights, self.forms, strict=True) if weight)

    def lifted(self) -> Lifted:
        """Return the solution that was found."""
        positive, negative = (
            torch.from_numpy(np.stack([z.value for z in part])) for part in (self.positive, self.negative)
        )
        return Lifted(positive, negative, self._activation)


def solve_with(programme: cvxpy.Problem, solver: str) -> None:
    """Solve in place.

    Raises:
        ConfigError: an unknown solver.
        RunFailed: the solver found no usable solution.
    """
    if solver not in SOLVERS:
        raise ConfigError(f"solver {solver!r}: must be one of {', '.join(SOLVERS)}")
    name = SOLVERS[solver]
    with warnings.catch_warnings():
        # "may be inaccurate": our own lower bound says how inaccurate
        warnings.simplefilter("ignore")
        try:
            programme.solve(solver=name, **OPTIONS[name])
        except import_cvxpy().error.SolverError as error:
            raise RunFailed(f"{solver}: {error}") from error
    if programme.status not in USABLE:
        raise RunFailed(f"{solver} ended with status {programme.status!r}")


def as_numpy(problem: Problem) -> np.ndarray:
    """Return the samples, float64 [n, d]."""
    return problem.x.detach().cpu().double().numpy()


def solve_sdp(problem: Problem, *, solver: str = "clarabel", tolerance: float = 1e-3) -> Solution:
    """Find the global optimum of adversarial training by one semidefinite programme.

    min (1/n) Σ (1 − w_i)₊ + β (Z₄ + Z₄′) over Z, Z′ ⪰ 0 with tr Z₁ = Z₄, and for each sample and rival class
    y PᵀHP + λ diag(I, −r²) − w e eᵀ ⪰ 0 with λ ≥ 0, P = [[I, x], [0, 1]]: the S-lemma, exact for r > 0.
    With r = 0 the inequality is w ≤ y f(x). n blocks of order d + 1: Clarabel to about n = 500, d = 10 or n = 50,
    d = 20, SCS ("scs") somewhat beyond at lower precision; `solve_cutting_set` and `solve_first_order` go further.

    Raises:
        ConfigError: cvxpy is not installed.
        RunFailed: the solver found no solution.
    """
    started = perf_counter()
    model, x = Model(problem), as_numpy(problem)
    cp, samples, size = model.cp, len(x), x.shape[1] + 1
    margin = cp.Variable(samples)
    blocks: list[tuple[int, float, list[int], Any]] = []
    for weights, index, sign in comparisons(problem.y.cpu(), problem.functions):
        form = model.form(weights)
        for sample, side in zip(index.tolist(), sign.tolist(), strict=True):
            blocks.append((sample, side, weights, _block(cp, form, x[sample], margin[sample], side, problem.radius)))
    loss = cp.sum(cp.pos(1 - margin)) / samples
    programme = cp.Problem(
        cp.Minimize(loss + problem.beta * model.path_norm), [*model.constraints, *(block for *_, block in blocks)]
    )
    solve_with(programme, solver)
    bound = _lower_bound(problem, x, blocks, size)
    found = solution(problem, model.lifted(), bound, started=started, rounds=_iterations(programme))
    return found.judged(tolerance, str(programme.status))


def _block(cp: Any, form: Any, x: np.ndarray, margin: Any, side: float, radius: float) -> Any:
    """Return the constraint of one sample against one rival."""
    d = len(x)
    shift = np.vstack([np.hstack([np.eye(d), x[:, None]]), np.eye(d + 1)[-1:]])
    if radius == 0:
        return side * cp.sum(cp.multiply(np.outer(shift[:, -1], shift[:, -1]), form)) >= margin
    ball = np.diag([*np.ones(d), -(radius**2)])
    corner = np.zeros((d + 1, d + 1))
    corner[-1, -1] = 1
    return side * (shift.T @ form @ shift) + cp.Variable(nonneg=True) * ball - margin * corner >> 0


def _lower_bound(problem: Problem, x: np.ndarray, blocks: list[tuple[int, float, list[int], Any]], size: int) -> float:
    """Return a lower bound from the inequalities' dual matrices Y: second moments of perturbations, made feasible if
    they are not.

    Y ⪰ 0 with tr Y₁ ≤ r² Y₄ is Y₄ times the moments of points in the ball, and Y₄ is the sample's weight s.
    """
    weights = np.zeros(len(x))
    found = []
    for sample, side, classes, block in blocks:
        dual = np.asarray(block.dual_value, dtype=np.float64)
        if problem.radius == 0:
            dual = max(float(dual), 0.0) * np.outer(np.eye(size)[-1], np.eye(size)[-1])
        values, vectors = np.linalg.eigh((dual + dual.T) / 2)
        dual = (vectors * values.clip(0)) @ vectors.T
        spread, weight = np.trace(dual[:-1, :-1]), dual[-1, -1]
        if spread > problem.radius**2 * weight:
            shrink = np.diag([*np.full(size - 1, problem.radius * np.sqrt(weight / spread)), 1.0])
            dual = shrink @ dual @ shrink
        shift = np.vstack([np.hstack([np.eye(size - 1), x[sample][:, None]]), np.eye(size)[-1:]])
        weights[sample] += dual[-1, -1]
        found.append((sample, side, classes, shift @ dual @ shift.T))
    moment = np.zeros((problem.functions, size, size))
    # a sample's weights, over its rivals, are at most 1/n
    share = 1 / np.maximum(1, len(x) * weights)
    for sample, side, classes, matrix in found:
        moment += share[sample] * side * np.array(classes)[:, None, None] * matrix
    total: Tensor = torch.tensor((share * weights).sum())
    return lower_bound(total, torch.from_numpy(moment), problem.beta, problem.activation)


def _iterations(programme: Any) -> int:
    return int(programme.solver_stats.num_iters or 0)
