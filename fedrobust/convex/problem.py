"""The problem to solve, and the solution that a solver returns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from time import perf_counter
from typing import ClassVar, Literal

import torch
from torch import Tensor

from fedrobust.attacks.ball import Norm
from fedrobust.convex.checked import check_weights, checked_labels
from fedrobust.convex.margins import functions_of, worst_case
from fedrobust.convex.network import RELU_FIT, Activation, Lifted, PolynomialNetwork, lift, recover

LossName = Literal["hinge", "squared", "logistic"]


@dataclass(frozen=True, eq=False)
class Programme(ABC):
    """The problem min (1/n) Σ_i loss_i + β ‖α‖₁ over polynomial networks, each sample at its worst within ‖δ‖₂ ≤ r.

    Attributes:
        x: samples [n, d], float64 or float32; solvers other than the first-order one compute in float64.
        y: labels 0 .. num_classes − 1 [n], int64; −1 and 1 are taken as 0 and 1.
        radius: radius r ≥ 0, in the units of x.
        beta: weight β > 0 of the path norm.

    Raises:
        DataError, ConfigError: samples or weights that cannot be used (`checked`).
    """

    x: Tensor
    y: Tensor
    radius: float
    beta: float
    num_classes: int = 2
    activation: Activation = RELU_FIT

    norm: ClassVar[Norm] = "l2"
    loss: ClassVar[LossName]

    def __post_init__(self) -> None:
        check_weights(self.radius, self.beta)
        object.__setattr__(self, "y", checked_labels(self.x, self.y, self.num_classes))

    @property
    def functions(self) -> int:
        """The number C of functions."""
        return functions_of(self.num_classes)

    @abstractmethod
    def objective(self, lifted: Lifted) -> float:
        """Return the value at a network, its worst cases taken exactly."""


class Problem(Programme):
    """The programme with the hinge loss_i = (1 − w_i)₊, w_i the worst margin over all rivals."""

    loss = "hinge"

    def objective(self, lifted: Lifted) -> float:
        """Return the value at a network, its worst cases taken exactly."""
        case = worst_case(lifted.forms, self.x.to(lifted.positive), self.y, self.radius)
        return float((1 - case.margin).clamp(min=0).mean() + self.beta * lifted.path_norm)


@dataclass(frozen=True, eq=False)
class Solution:
    """A network, its objective, and a proven bound on how much better any other network could be.

    Attributes:
        network: the ordinary module, at most 2 (d + 1) hidden units per function.
        lifted: its (Z, Z′), float64.
        objective: its value in the programme, worst cases exact: an upper bound on the optimum.
        lower_bound: a bound below the objective of every network; recomputed from the solver's dual variables, never
            taken from a solver.
        status: "optimal" (gap within the tolerance asked for), else the reason why the solver stopped.
        rounds: number of steps, rounds of cuts, or iterations of the interior-point method.
    """

    network: PolynomialNetwork
    lifted: Lifted
    objective: float
    lower_bound: float
    status: str
    seconds: float
    rounds: int

    @property
    def gap(self) -> float:
        """The relative gap (objective − lower bound) / objective."""
        return (self.objective - self.lower_bound) / self.objective if self.objective else 0.0

    def judged(self, tolerance: float, otherwise: str) -> Solution:
        """Return the solution with status "optimal" if the gap is within `tolerance`, else with status `otherwise`."""
        return replace(self, status="optimal" if self.gap <= tolerance else otherwise)


def solution(
    problem: Programme, found: Lifted, lower_bound: float, *, started: float, rounds: int, status: str = ""
) -> Solution:
    """Turn a solver's result into a network that is exactly feasible, and compute its value."""
    network = recover(found)
    lifted = lift(network)
    return Solution(
        network, lifted, problem.objective(lifted), max(lower_bound, 0.0), status, perf_counter() - started, rounds
    )


def nothing(problem: Programme) -> Lifted:
    """Return the network without neurons, f = 0: with the hinge its objective is 1."""
    size = problem.x.shape[1] + 1
    zero = torch.zeros(problem.functions, size, size, dtype=torch.float64, device=problem.x.device)
    return Lifted(zero, zero, problem.activation)
