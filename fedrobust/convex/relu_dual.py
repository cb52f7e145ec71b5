"""A lower bound on the ReLU programme's optimum over its patterns, from any multipliers, without trusting a solver.

A comparison's multipliers are a, b ≥ |a| and q with ‖q‖ ≤ ε b per sample: b ε ‖u‖* ≥ qᵀu moves the sample within its
ball. A cone's are μ ≥ 0 and z with ‖z‖ ≤ ε Σ_k μ_k. With G_i = Σ_k d_ik (a_k y_k x_k − (q_k, 0)), the Lagrangian of the
v_i is at least 0 if ‖G_i + Σ_k μ_k (2d_ik − 1) x_k − (z, 0)‖₂ ≤ β, that of the w_i with −G_i; all multipliers are
scaled until it is so, and the best z for a given μ is a projection.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedrobust.attacks.ball import Norm
from fedrobust.convex.logistic import entropy, rivals
from fedrobust.convex.relu_programme import ReluProblem


@dataclass(frozen=True, eq=False)
class Comparison:
    """A pair of classes, and the multipliers of its constraints.

    Attributes:
        weights, index, sign: as in `margins.comparisons`.
        below, above: multipliers ≥ 0 of the constraints on the least and the greatest of y f in the ball [n]; a and b
            are their difference and sum.
        move: q [n, d].
    """

    weights: list[int]
    index: Tensor
    sign: Tensor
    below: Tensor
    above: Tensor
    move: Tensor


def lower_bound(problem: ReluProblem, patterns: Tensor, found: list[Comparison], cones: Tensor) -> float:
    """Return a lower bound on the optimum over these patterns.

    Args:
        patterns: D [P, n].
        cones: multipliers μ ≥ 0 of the v and of the w, [2, C, n, P].
    """
    samples = len(problem.x)
    shares = torch.zeros(samples, problem.functions, dtype=torch.float64)
    for pair in found:
        shares[pair.index, rivals(pair.weights, pair.sign)] = pair.below + pair.above
    # at most 1/n over a sample's rivals, but for the squared loss
    fits = 1 / (samples * shares.sum(1)).clamp(min=1) if problem.loss != "squared" else torch.ones(samples).double()
    forces = torch.zeros(problem.functions, *patterns.shape[:1], problem.x.shape[1] + 1, dtype=torch.float64)
    for pair in found:
        both = fits[pair.index] * (pair.below + pair.above)
        pushed = (fits[pair.index] * (pair.below - pair.above) * pair.sign)[:, None] * problem.rows[pair.index]
        pushed[:, :-1] -= into_ball(pair.move, problem.radius * both, problem.norm)
        for function, weight in enumerate(pair.weights):
            forces[function] += weight * patterns[:, pair.index] @ pushed
    response = max(
        _response(problem, patterns, sign * force, multiplier)
        for sign, part in zip((1, -1), cones, strict=True)
        for force, multiplier in zip(forces, part, strict=True)
    )
    return _value(problem, shares * fits[:, None], found, problem.beta / response if response > 0 else float("inf"))


def _response(problem: ReluProblem, patterns: Tensor, force: Tensor, multiplier: Tensor) -> float:
    """Compute max_i ‖G_i + Σ_k μ_ki (2d_ik − 1) x_k − (z_i, 0)‖₂ of G [P, d + 1] and μ [n, P], at the best z."""
    total = force + (multiplier.T * (2 * patterns - 1)) @ problem.rows
    total[:, :-1] -= into_ball(total[:, :-1], problem.radius * multiplier.sum(0), problem.norm)
    return float(torch.linalg.vector_norm(total, dim=1).max())


def into_ball(v: Tensor, radius: Tensor, norm: Norm) -> Tensor:
    """Project rows of v [n, d] onto ‖·‖ ≤ r [n]."""
    if norm == "linf":
        return v.clamp(-radius[:, None], radius[:, None])
    length = torch.linalg.vector_norm(v, dim=1).clamp(min=torch.finfo(v.dtype).tiny)
    return v * (radius / length).clamp(max=1)[:, None]


def _value(problem: ReluProblem, shares: Tensor, found: list[Comparison], largest: float) -> float:
    """Compute the Lagrangian's constant part at t times the multipliers, with t ≤ `largest` as the loss allows."""
    scale = min(1.0, largest)
    if problem.loss == "hinge":
        return scale * float(shares.sum())
    if problem.loss == "logistic":
        return float(entropy(len(shares) * scale * shares).mean())
    # z² ≥ σ z − σ²/4, at the best scale
    linear = float(sum((pair.below - pair.above).sum() for pair in found))
    square = len(shares) / 4 * float(shares.square().sum())
    scale = min(largest, max(0.0, linear) / (2 * square)) if square else 0.0
    return scale * linear - scale**2 * square
