"""Quadratic functions on a ball, many at once: the exact worst case of a polynomial network."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

MAX_STEPS = 60
HARD = 1024  # a minimiser shorter than the radius by more than so many roundings is the hard case's


class Minimum(NamedTuple):
    """The minima that `minimise` finds: points [n, d] in the eigenbasis, values [n], multipliers μ [n] of ‖δ‖² ≤ r²."""

    point: Tensor
    value: Tensor
    multiplier: Tensor


@torch.no_grad()
def minimise(curvature: Tensor, gradient: Tensor, radius: Tensor, *, sphere: bool = False) -> Minimum:
    """Minimise Σ_k (λ_k δ_k² + 2 g_k δ_k) over ‖δ‖₂ ≤ r, for n functions in their eigenbases at once.

    The minimiser is δ = −(Λ + μ)⁻¹ g with μ ≥ max(0, −λ_min), and ‖δ‖ = r unless μ = 0. The secular equation
    1/‖δ(ν)‖ = 1/r is solved in ν = μ + λ_min, so that denominators λ_k − λ_min + ν keep their digits near the pole; its
    left side is concave and increases, so Newton's method climbs to the root without safeguards from
    max_k (|g_k|/r − (λ_k − λ_min)), which is at or left of it (Conn, Gould and Toint 2000, section 7.3). Hard case, g
    without a part along λ_min: δ(0) is shorter than r, and an eigenvector of λ_min makes up the length.

    Args:
        curvature: eigenvalues λ [n, d], not sorted.
        gradient: linear terms g [n, d].
        radius: radii r > 0 [n].
        sphere: minimise over ‖δ‖₂ = r instead: μ may be negative then.

    Returns:
        `value` is the dual one, −Σ g_k²/(λ_k + μ) − μ r²: below the minimum at any μ, whatever the number of steps.
    """
    lowest, position = curvature.min(1)
    gaps = curvature - lowest[:, None]
    floor = torch.zeros_like(lowest) if sphere else lowest.clamp(min=0)
    shift = torch.maximum(floor, (gradient.abs() / radius[:, None] - gaps).amax(1))
    for _ in range(MAX_STEPS):
        point, inverse = _stationary(gradient, gaps, shift)
        squares = point.square()
        length = squares.sum(1).sqrt()
        slope = squares.mul_(inverse).sum(1)
        # no slope: no gradient, so the least shift is the root
        step = torch.where(slope > 0, (length / radius - 1) * length.square() / slope, 0.0).clamp(min=0)
        shift = shift + step
        if (step <= 4 * torch.finfo(shift.dtype).eps * shift).all():
            break
    point, _ = _stationary(gradient, gaps, shift)
    multiplier = shift - lowest if sphere else (shift - lowest).clamp(min=0)
    value = (gradient * point).sum(1) - multiplier * radius.square()
    length = torch.linalg.vector_norm(point, dim=1)
    point = point * (radius / length.clamp(min=torch.finfo(length.dtype).tiny)).clamp(max=1)[:, None]
    on_sphere = multiplier != 0
    hard = on_sphere & (length < (1 - HARD * torch.finfo(length.dtype).eps) * radius)
    missing = (radius.square() - length.square()).clamp(min=0).sqrt() * hard
    # towards lower values, where g has a part along it that rounding left
    sign = torch.where(gradient.gather(1, position[:, None])[:, 0] > 0, -1.0, 1.0).to(missing.dtype)
    return Minimum(point.scatter_add(1, position[:, None], (sign * missing)[:, None]), value, multiplier)


def _stationary(gradient: Tensor, gaps: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """Return δ = −g / (gaps + shift), 0 if g is 0, and 1 / (gaps + shift), large if that is 1 / 0."""
    inverse = gaps.add(shift[:, None]).clamp_(min=torch.finfo(gaps.dtype).tiny).reciprocal_()
    return (gradient * inverse).neg_(), inverse
