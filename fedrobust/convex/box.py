"""Quadratic functions on a box, many at once: a sound lower bound by a barrier method."""

from __future__ import annotations

import torch
from torch import Tensor

STAGES, STEPS = 9, 6  # of the barrier, a factor of 8 each; Newton steps in a stage
CHUNK = 1 << 24  # numbers in a batch of matrices


@torch.no_grad()
def minimum_in_box(curvature: Tensor, gradient: Tensor, radius: float) -> Tensor:
    """A lower bound on min over ‖δ‖∞ ≤ ε of δᵀAδ + 2 gᵀδ, for n functions at once, [n].

    In z = (δ/ε, 1), z_k² ≤ 1, it is zᵀBz with B = [[ε²A, εg], [εgᵀ, 0]], and −Σ_k ν_k is below it wherever
    B + diag(ν) ⪰ 0, ν_k ≥ 0 for k ≤ d (Shor's relaxation; one multiplier per coordinate). The best ν by damped Newton
    steps on Σ ν_k − τ log det(B + diag ν) − τ Σ_{k≤d} log ν_k, τ → 0: self-concordant, so every iterate stays feasible
    and every value is a bound; at the end it is within 3 dτ of the best. Limit case: exact where A is diagonal.

    Args:
        curvature: A [n, d, d], symmetric; or one sign of it per function.
        gradient: g [n, d].
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
