"""Polynomial networks as modules and as matrices: the lifted variables in which their training is convex."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

NEGLIGIBLE = 1e-10  # eigenvalues of Z below this part of the largest are rounding


class Activation(NamedTuple):
    """The quadratic activation σ(z) = a z² + b z + c. The defaults fit ReLU (Bartan and Pilanci 2021)."""

    a: float = 0.09
    b: float = 0.5
    c: float = 0.47

    def __call__(self, z: Tensor) -> Tensor:
        return (self.a * z + self.b) * z + self.c

    def scale(self, dimension: int, like: Tensor) -> Tensor:
        """Return S [d + 1, d + 1], in dtype and on the device of `like`."""
        scale = torch.full((dimension + 1, dimension + 1), self.a, dtype=like.dtype, device=like.device)
        scale[-1, :] = scale[:, -1] = self.b / 2
        scale[-1, -1] = self.c
        return scale


RELU_FIT = Activation()


@dataclass(frozen=True, eq=False)
class Lifted:
    """The lifted variables (Z, Z′) of C functions.

    Attributes:
        positive, negative: Z and Z′, symmetric [C, d + 1, d + 1]. For a network they are positive semidefinite, with
            tr Z₁ = Z₄: the trace of the d × d block equals the last entry.
    """

    positive: Tensor
    negative: Tensor
    activation: Activation = RELU_FIT

    @property
    def forms(self) -> Tensor:
        """The matrices H [C, d + 1, d + 1] with f_c(x) = [x;1]ᵀ H_c [x;1]."""
        return self.activation.scale(self.positive.shape[-1] - 1, self.positive) * (self.positive - self.negative)

    @property
    def path_norm(self) -> Tensor:
        """The path norm Σ_c (Z₄ + Z₄′) = ‖α‖₁, which the programme penalises."""
        return (self.positive[:, -1, -1] + self.negative[:, -1, -1]).sum()

    def residual(self) -> float:
        """Return the distance from the lifted variables of a network: the largest of −λ_min and |tr Z₁ − Z₄|, over 1 +
        ‖α‖₁.
        """
        both = torch.cat([self.positive, self.negative])
        negative = -torch.linalg.eigvalsh(both).min()
        trace = (both.diagonal(dim1=1, dim2=2)[:, :-1].sum(1) - both[:, -1, -1]).abs().max()
        return float(torch.maximum(negative.clamp(min=0), trace) / (1 + self.path_norm))


def values(forms: Tensor, x: Tensor) -> Tensor:
    """Compute f_c(x_i) [n, C] of H [C, d + 1, d + 1] at x [n, d]; memory n · d at a time."""
    quadratic, linear, constant = forms[:, :-1, :-1], forms[:, :-1, -1], forms[:, -1, -1]
    columns = [((x @ block) * x).sum(1) for block in quadratic]
    return torch.stack(columns, 1) + 2 * x @ linear.T + constant


class PolynomialNetwork(nn.Module):
    """The network f_c(x) = Σ_j W_cj σ(u_jᵀx) with σ(z) = a z² + b z + c and ‖u_j‖₂ = 1; no bias, no normalisation.

    [B, ...] → logits [B, K], the input flattened. Two classes have one function f, and logits (−f/2, f/2).

    Args:
        directions: u [m, d].
        weights: W [C, m]; C = 1 for two classes.
    """

    def __init__(self, directions: Tensor, weights: Tensor, activation: Activation = RELU_FIT) -> None:
        super().__init__()
        self.directions, self.weights = nn.Parameter(directions), nn.Parameter(weights)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return as_logits(self.activation(x.flatten(1) @ self.directions.T) @ self.weights.T)


def as_logits(functions: Tensor) -> Tensor:
    """Return logits of functions, [B, C] → [B, K]: one function becomes (−f/2, f/2), whose difference is f."""
    return torch.cat([-functions / 2, functions / 2], 1) if functions.shape[1] == 1 else functions


@torch.no_grad()
def lift(network: PolynomialNetwork) -> Lifted:
    """Return (Z, Z′) of a network whose directions have length 1, in float64."""
    directions, weights = network.directions.double(), network.weights.double()
    rows = torch.cat([directions, torch.ones_like(directions[:, :1])], 1)
    positive, negative = (torch.einsum("cm,mi,mj->cij", part.clamp(min=0), rows, rows) for part in (weights, -weights))
    return Lifted(positive, negative, network.activation)


@torch.no_grad()
def recover(lifted: Lifted) -> PolynomialNetwork:
    """Return the network of (Z, Z′), in float64, with at most 2 (d + 1) hidden units for each function.

    A pair that is feasible only up to a solver's tolerance gives a nearby network, whose own objective then counts.
    """
    directions, weights = [], []
    for function, pair in enumerate(zip(lifted.positive, lifted.negative, strict=True)):
        for sign, matrix in zip((1.0, -1.0), pair, strict=True):
            units, sizes = neurons(matrix.double())
            row = sizes.new_zeros(len(lifted.positive), len(sizes))
            row[function] = sign * sizes
            directions.append(units)
            weights.append(row)
    return PolynomialNetwork(torch.cat(directions), torch.cat(weights, 1), lifted.activation)


def neurons(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return unit u [k, d] and weights α > 0 [k], k ≤ d + 1, with Σ_j α_j [u_j;1][u_j;1]ᵀ = Z if Z ⪰ 0, tr Z₁ = Z₄.

    Z = Σ p pᵀ by its eigenvectors. With G = diag(I, −1), Σ pᵀGp = 0: a rotation of two factors of opposite sign keeps p
    pᵀ + q qᵀ and makes one of them isotropic, pᵀGp = 0, which is what ‖u‖ = 1 means; then u = p₁/p₄, α = p₄². Kuelbs,
    Lall and Pilanci 2024 (arXiv 2405.14033).
    """
    values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    kept = values > NEGLIGIBLE * values[-1].clamp(min=NEGLIGIBLE)
    factors = list((vectors[:, kept] * values[kept].sqrt()).T)
    forms = [float(p[:-1] @ p[:-1] - p[-1] ** 2) for p in factors]
    while factors and max(forms) > 0 > min(forms) and len(set(forms)) > 1:
        i, j = forms.index(max(forms)), forms.index(min(forms))
        p, q = factors[i], factors[j]
        cross = float(p[:-1] @ q[:-1] - p[-1] * q[-1])
        # form of p + t q: g_p + 2 t g_pq + t² g_q = 0; the root without cancellation
        root = (cross**2 - forms[i] * forms[j]) ** 0.5
        t = forms[i] / (root - cross) if cross < 0 else -(cross + root) / forms[j]
        norm = (1 + t * t) ** 0.5
        both = forms[i] + forms[j]
        factors[i], factors[j] = (p + t * q) / norm, (q - t * p) / norm
        forms[i], forms[j] = 0.0, both
    if not factors:
        return matrix.new_zeros(0, len(matrix) - 1), matrix.new_zeros(0)
    stacked = torch.stack(factors)
    stacked = stacked * torch.where(stacked[:, -1:] < 0, -1.0, 1.0)
    length = torch.linalg.vector_norm(stacked[:, :-1], dim=1)
    return stacked[:, :-1] / length[:, None], length * stacked[:, -1]
