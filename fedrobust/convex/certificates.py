"""Certificates of a polynomial network for a sample, valid against every attack: exact in l2, sound in l∞."""

from __future__ import annotations

import torch
from torch import Tensor

from fedrobust.convex.checked import checked_labels
from fedrobust.convex.margins import classes_of, combined, comparisons, of_pair, worst_case
from fedrobust.convex.network import Lifted, values

STAGES, STEPS = 9, 6  # of the barrier, a factor of 8 each; Newton steps in a stage
CHUNK = 1 << 24  # numbers in a batch of matrices

MAX_STEPS = 100


@torch.no_grad()
def minimum_in_box(curvature: Tensor, gradient: Tensor, radius: float) -> Tensor:
    """Return a lower bound on min over ‖δ‖∞ ≤ ε of δᵀAδ + 2 gᵀδ, for n functions at once, [n].

    In z = (δ/ε, 1), z_k² ≤ 1, it is zᵀBz with B = [[ε²A, εg], [εgᵀ, 0]], and −Σ_k ν_k is below it wherever
    B + diag(ν) ⪰ 0, ν_k ≥ 0 for k ≤ d (Shor's relaxation; one multiplier per coordinate). The best ν by damped Newton
    steps on Σ ν_k − τ log det(B + diag ν) − τ Σ_{k≤d} log ν_k, τ → 0: self-concordant, so every iterate stays feasible
    and every value is a bound; at the end it is within 3 dτ of the best. Limit case: exact where A is diagonal.

    Args:
        curvature: symmetric matrices A, [n, d, d].
        gradient: linear terms g, [n, d].
    """
    size = gradient.shape[1] + 1
    chunk = max(1, CHUNK // size**2)
    parts = zip(curvature.split(chunk), gradient.split(chunk), strict=True)
    return torch.cat([_bound(a, g, radius) for a, g in parts]) if len(gradient) else gradient.new_zeros(0)


def _bound(curvature: Tensor, gradient: Tensor, radius: float) -> Tensor:
    side = radius * gradient[:, :, None]
    block = torch.cat([torch.cat([radius**2 * curvature, side], 2), torch.cat([side, side[:, :1] * 0], 1).mT], 1)
    size = block.shape[1]
    scale = block.abs().sum(2).amax(1).clamp(min=torch.finfo(block.dtype).tiny)
    block = block / scale[:, None, None]
    shift = block.abs().sum(2) + 1.0  # diagonally dominant
    inside = torch.ones(size, dtype=block.dtype, device=block.device)
    inside[-1] = 0  # z² = 1 there: its multiplier may be negative
    barrier = 1.0
    for _ in range(STAGES):
        for _ in range(STEPS):
            inverse = torch.linalg.inv(block + torch.diag_embed(shift))
            slope = 1 / barrier - inverse.diagonal(dim1=1, dim2=2) - inside / shift
            hessian = inverse.square() + torch.diag_embed(inside / shift.square())
            move = -torch.linalg.solve(hessian, slope)
            decrement = (-(move * slope).sum(1)).clamp(min=0).sqrt()
            shift = shift + move / (1 + decrement)[:, None]
        barrier /= 8
    # rounding: whatever it did, the matrix must be positive semidefinite
    lowest = torch.linalg.eigvalsh(block + torch.diag_embed(shift)).amin(1).clamp(max=0)
    return scale * (-shift.sum(1) + size * lowest)


def l2_margins(lifted: Lifted, x: Tensor, y: Tensor, radius: float) -> Tensor:
    """Return min over ‖δ‖₂ ≤ r and rivals k of f_y(x + δ) − f_k(x + δ), exact up to rounding, [n]; ± f for two classes.

    Above 0: no perturbation within r changes the prediction. At most 0: the point of `worst_case` changes it.
    """
    return worst_case(lifted.forms, x, _labels(lifted, x, y), radius).margin


def l2_distances(lifted: Lifted, x: Tensor, y: Tensor) -> Tensor:
    """Return the distance to the nearest point that is not classified as y, exact, [n]; 0 if x itself is not, ∞ if
    there is none.

    The value v(ρ) of the worst case within r² = ρ is convex and falls (by the S-lemma it is a supremum of functions
    linear in ρ), so Newton's method on v(ρ) = 0 climbs to the root from below: each step is a radius that is certified.
    """
    y = _labels(lifted, x, y)
    nearest = torch.full((len(x),), torch.inf, dtype=x.dtype, device=x.device)
    for weights, index, sign in comparisons(y, len(lifted.forms)):
        form = combined(x.new_tensor(weights), lifted.forms)
        found = _distance(form, x[index], sign.to(x.dtype))
        nearest[index] = torch.minimum(nearest[index], found)
    return nearest


def _distance(form: Tensor, x: Tensor, sign: Tensor) -> Tensor:
    at_x = sign * values(form[None], x)[:, 0]
    slope = torch.linalg.vector_norm(2 * (x @ form[:-1, :-1] + form[:-1, -1]), dim=1)
    eigenvalues = torch.linalg.eigvalsh(form[:-1, :-1])
    lowest = torch.where(sign > 0, eigenvalues[0], -eigenvalues[-1]).clamp(max=0)
    # the nearest that a function with this value and slope, and curvature no lower, can reach 0
    root = (slope.square() - 4 * lowest * at_x.clamp(min=0)).sqrt()
    squared = _over(2 * at_x.clamp(min=0), slope + root).square()
    tiny = 16 * torch.finfo(x.dtype).eps
    for _ in range(MAX_STEPS):
        open_ = (at_x > 0) & squared.isfinite()
        if not open_.any():
            break
        radius = squared.clamp(min=torch.finfo(x.dtype).tiny).sqrt()
        margin, _, multiplier = of_pair(form, x, sign, torch.where(open_, radius, 1.0))
        step = torch.where(open_, _over(margin.clamp(min=0), multiplier), 0.0)
        squared = squared + step
        if (step <= tiny * squared)[open_].all():
            break
    return torch.where(at_x > 0, squared.sqrt(), 0.0)


def linf_margins(lifted: Lifted, x: Tensor, y: Tensor, radius: float) -> Tensor:
    """Return a lower bound on min over ‖δ‖∞ ≤ ε and rivals k of f_y(x + δ) − f_k(x + δ), [n]: sound, not always exact.

    Uses one multiplier per coordinate instead of one for the ball (`minimum_in_box`). Limit case: exact for ε = 0.
    """
    y = _labels(lifted, x, y)
    lowest = torch.full((len(x),), torch.inf, dtype=x.dtype, device=x.device)
    for weights, index, sign in comparisons(y, len(lifted.forms)):
        form = combined(x.new_tensor(weights), lifted.forms)
        side = sign.to(x.dtype)
        found = side * values(form[None], x[index])[:, 0]
        if radius:
            gradient = side[:, None] * (x[index] @ form[:-1, :-1] + form[:-1, -1])
            found = found + minimum_in_box(side[:, None, None] * form[:-1, :-1], gradient, radius)
        lowest[index] = torch.minimum(lowest[index], found)
    return lowest


def accuracy(margins: Tensor) -> float:
    """Return the share of samples with a margin above 0."""
    return float((margins > 0).double().mean())


def _labels(lifted: Lifted, x: Tensor, y: Tensor) -> Tensor:
    return checked_labels(x, y, classes_of(len(lifted.positive)))


def _over(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Return the quotient; over 0 it is ∞, or 0 if the numerator is 0."""
    return torch.where(numerator == 0, 0.0, numerator / denominator)
