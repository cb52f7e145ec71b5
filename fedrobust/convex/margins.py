"""The exact worst case of a polynomial network in an l2 ball around each sample, with the quantities that training
needs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fedrobust.convex.network import values
from fedrobust.convex.trust_region import minimise

CACHED = 1 << 16  # numbers per matrix of a block of rows: Newton's few matrices then stay in a CPU core's cache


@dataclass(frozen=True)
class WorstCase:
    """The worst cases of n samples.

    Attributes:
        margin: the margin w_i = min over ‖δ‖₂ ≤ r and over rivals k ≠ y of f_y(x_i + δ) − f_k(x_i + δ) [n]; for two
            classes the minimum of ± f(x_i + δ). Never above the minimum, up to rounding.
        point: the minimiser x_i + δ_i, [n, d].
        contrast: ∂w_i/∂f_c [n, C]: 1 for the label, −1 for the rival; for two classes ± 1 of the one function.
    """

    margin: Tensor
    point: Tensor
    contrast: Tensor


class PairMinimum(NamedTuple):
    """Minima [n], their points x + δ [n, d] and the multipliers of ‖δ‖² ≤ r² [n]."""

    value: Tensor
    point: Tensor
    multiplier: Tensor


def functions_of(num_classes: int) -> int:
    """Return the number C of functions: one separates two classes (f > 0: class 1), more classes have one each."""
    return 1 if num_classes == 2 else num_classes


def classes_of(functions: int) -> int:
    """Return the number K of classes that C functions separate."""
    return 2 if functions == 1 else functions


def worst_case(forms: Tensor, x: Tensor, y: Tensor, radius: float) -> WorstCase:
    """Compute the worst case of every sample within `radius` ≥ 0.

    All samples share H_y − H_k for a pair of classes, up to its sign: one eigendecomposition for two classes, C (C −
    1)/2 for C of them. Memory n · (d + C) + C · d².

    Args:
        forms: H [C, d + 1, d + 1]; C = 1 for two classes.
        x: [n, d].
        y: labels from 0 on [n].
    """
    margin = torch.full((len(x),), torch.inf, dtype=x.dtype, device=x.device)
    point = x.clone()
    contrast = torch.zeros(len(x), len(forms), dtype=x.dtype, device=x.device)
    for weights, index, sign in comparisons(y, len(forms)):
        weights, sign = x.new_tensor(weights), sign.to(x.dtype)
        found, where, _ = of_pair(combined(weights, forms), x[index], sign, radius)
        worse = (found < margin[index]) | found.isnan()  # a NaN is no margin above 0
        chosen = index[worse]
        margin[chosen], point[chosen] = found[worse], where[worse]
        contrast[chosen] = sign[worse, None] * weights
    return WorstCase(margin, point, contrast)


def comparisons(y: Tensor, functions: int) -> Iterator[tuple[list[int], Tensor, Tensor]]:
    """Yield every pair of classes: weights of f_j − f_k on the functions [C]; samples of either class; 1 for j, −1 for
    k.
    """
    if functions == 1:
        yield [1], torch.arange(len(y), device=y.device), 2 * y - 1
        return
    for j in range(functions):
        for k in range(j + 1, functions):
            index = ((y == j) | (y == k)).nonzero().flatten()
            if len(index):
                weights = [(c == j) - (c == k) for c in range(functions)]
                yield weights, index, torch.where(y[index] == j, 1, -1)


def combined(weights: Tensor, forms: Tensor) -> Tensor:
    """Return Σ_c weights_c H_c, [d + 1, d + 1]."""
    return torch.einsum("c,cij->ij", weights, forms)


@torch.no_grad()
def of_pair(form: Tensor, x: Tensor, sign: Tensor, radius: float | Tensor) -> PairMinimum:
    """Compute the worst case of sign · [x+δ;1]ᵀ form [x+δ;1] over ‖δ‖₂ ≤ r, one eigendecomposition for all n samples.

    Args:
        sign: ± 1 [n].
        radius: one r ≥ 0 for all, or one above 0 for each [n].
    """
    if not isinstance(radius, Tensor):
        if radius == 0:
            return PairMinimum(sign * values(form[None], x)[:, 0], x, torch.zeros_like(sign))
        radius = x.new_full((len(x),), radius)
    curvature, basis = torch.linalg.eigh(form[:-1, :-1])
    linear = form[:-1, -1] @ basis

    def of_rows(x: Tensor, sign: Tensor, radius: Tensor) -> PairMinimum:
        turned = x @ basis
        slope = turned * curvature + linear
        at_x = sign * ((turned * (slope + linear)).sum(1) + form[-1, -1])
        found = minimise(sign[:, None] * curvature, sign[:, None] * slope, radius)
        return PairMinimum(at_x + found.value, x + found.point @ basis.T, found.multiplier)

    rows = max(1, len(x) if x.is_cuda else CACHED // x.shape[1])
    blocks = zip(*(whole.split(rows) for whole in (x, sign, radius)), strict=True)
    return PairMinimum(*map(torch.cat, zip(*(of_rows(*block) for block in blocks), strict=True)))
