"""cvxpy, an optional extra, and what the programmes written in it share."""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fedrobust.convex.lifted import Lifted
from fedrobust.convex.problem import Problem
from fedrobust.errors import ConfigError, RunFailed

if TYPE_CHECKING:
    import cvxpy

SOLVERS = {"clarabel": "CLARABEL", "scs": "SCS"}
# SCS tighter than its default: figures are compared to six digits. Clarabel's own regularisation, 1e-8, ends in a
# numerical error at n = 455, d = 30
OPTIONS = {
    "CLARABEL": {"static_regularization_constant": 1e-7},
    "SCS": {"eps_abs": 1e-7, "eps_rel": 1e-7, "max_iters": 200_000},
}
USABLE = ("optimal", "optimal_inaccurate", "user_limit")


def import_cvxpy() -> Any:
    """The module. Raises ConfigError, one line, where it or a solver is not installed."""
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
        """Σ_c weights_c H_c."""
        return sum(weight * form for weight, form in zip(weights, self.forms, strict=True) if weight)

    def lifted(self) -> Lifted:
        """What was found."""
        positive, negative = (
            torch.from_numpy(np.stack([z.value for z in part])) for part in (self.positive, self.negative)
        )
        return Lifted(positive, negative, self._activation)


def solve_with(programme: cvxpy.Problem, solver: str) -> None:
    """Solve in place.

    Raises:
        ConfigError: an unknown solver.
        RunFailed: the solver found nothing usable.
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
    """The samples, float64 [n, d]."""
    return problem.x.detach().cpu().double().numpy()
