"""Polynomial networks as matrices: the lifted variables in which their training is convex.

A neuron of weight α and unit direction u adds |α| [u;1][u;1]ᵀ to Z where α > 0, to Z′ where α < 0, so that
f(x) = Σ_j α_j σ(u_jᵀx) = [x;1]ᵀ H [x;1] with H = S ∘ (Z − Z′), S = [[a, b/2], [b/2, c]] (blocks d × d, d × 1, 1 × 1).
Pairs (Z, Z′) may be added and averaged; neurons may not. Bartan and Pilanci 2021 (arXiv 2101.02429), section 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Activation(NamedTuple):
    """σ(z) = a z² + b z + c. The defaults fit ReLU (Bartan and Pilanci 2021)."""

    a: float = 0.09
    b: float = 0.5
    c: float = 0.47

    def __call__(self, z: Tensor) -> Tensor:
        return (self.a * z + self.b) * z + self.c

    def scale(self, dimension: int, like: Tensor) -> Tensor:
        """S [d + 1, d + 1], in dtype and on the device of `like`."""
        scale = torch.full((dimension + 1, dimension + 1), self.a, dtype=like.dtype, device=like.device)
        scale[-1, :] = scale[:, -1] = self.b / 2
        scale[-1, -1] = self.c
        return scale


RELU_FIT = Activation()


@dataclass(frozen=True, eq=False)
class Lifted:
    """(Z, Z′) of C functions.

    Attributes:
        positive, negative: Z and Z′, symmetric [C, d + 1, d + 1]. Those of a network are positive semidefinite, with
            tr Z₁ = Z₄: the trace of the d × d block equals the last entry.
    """

    positive: Tensor
    negative: Tensor
    activation: Activation = RELU_FIT

    @property
    def forms(self) -> Tensor:
        """H [C, d + 1, d + 1]: f_c(x) = [x;1]ᵀ H_c [x;1]."""
        return self.activation.scale(self.positive.shape[-1] - 1, self.positive) * (self.positive - self.negative)

    @property
    def path_norm(self) -> Tensor:
        """Σ_c (Z₄ + Z₄′) = ‖α‖₁, which the programme keeps small."""
        return (self.positive[:, -1, -1] + self.negative[:, -1, -1]).sum()

    def residual(self) -> float:
        """How far it is from being a network's: the largest of −λ_min and |tr Z₁ − Z₄|, over 1 + ‖α‖₁."""
        both = torch.cat([self.positive, self.negative])
        negative = -torch.linalg.eigvalsh(both).min()
        trace = (both.diagonal(dim1=1, dim2=2)[:, :-1].sum(1) - both[:, -1, -1]).abs().max()
        return float(torch.maximum(negative.clamp(min=0), trace) / (1 + self.path_norm))


def values(forms: Tensor, x: Tensor) -> Tensor:
    """f_c(x_i) [n, C] of H [C, d + 1, d + 1] at x [n, d]; memory n · d at a time."""
    quadratic, linear, constant = forms[:, :-1, :-1], forms[:, :-1, -1], forms[:, -1, -1]
    columns = [((x @ block) * x).sum(1) for block in quadratic]
    return torch.stack(columns, 1) + 2 * x @ linear.T + constant
