"""A polynomial network by its neurons' factors: what gradient training moves, by whatever attack, or none."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedrobust.convex.lifted import RELU_FIT, Activation, Lifted
from fedrobust.convex.network import as_logits


def signs(units: int, like: Tensor) -> Tensor:
    """1 for the first half of the neurons, −1 for the second: Z and Z′."""
    return torch.where(torch.arange(units, device=like.device) < units // 2, 1.0, -1.0).to(like.dtype)


def rows(factors: Tensor) -> Tensor:
    """[v; ‖v‖] of each neuron, [..., m, d + 1]: with u = v/‖v‖ and |α| = ‖v‖², |α| [u;1][u;1]ᵀ is its outer product."""
    return torch.cat([factors, torch.linalg.vector_norm(factors, dim=-1, keepdim=True)], -1)


def neurons_at(rows: Tensor, x: Tensor, activation: Activation) -> Tensor:
    """a (vᵀx)² + b t vᵀx + c t² for rows [v; t] [C, m, d + 1] at x [B, d]: what each adds to f_c but for its sign."""
    a, b, c = activation
    last = rows[..., -1]
    products = torch.einsum("bd,cmd->bcm", x, rows[..., :-1])
    return a * products.square() + b * last * products + c * last.square()


def lifted_of(factors: Tensor, activation: Activation) -> Lifted:
    """(Z, Z′) of factors v [C, m, d]."""
    half = factors.shape[1] // 2
    first, second = (part.mT @ part for part in rows(factors).split([half, factors.shape[1] - half], 1))
    return Lifted(first, second, activation)


def random_factors(functions: int, dimension: int, generator: torch.Generator) -> Tensor:
    """Small random neurons, [C, 2 (d + 1), d] in float64: as many as the optimum ever needs."""
    shape = functions, 2 * (dimension + 1), dimension
    return 0.5 / dimension**0.5 * torch.randn(shape, generator=generator, dtype=torch.float64)


class FactorNetwork(nn.Module):
    """f_c(x) = Σ_j ± ‖v_j‖² σ(u_jᵀx), u_j = v_j/‖v_j‖: [B, ...] → logits [B, K].

    Σ‖v‖² is ‖α‖₁, so that weight decay of 2β on the factors is the programme's regulariser.

    Args:
        factors: v [C, m, d], m even; the first half counts positively.
    """

    def __init__(self, factors: Tensor, activation: Activation = RELU_FIT) -> None:
        super().__init__()
        self.factors = nn.Parameter(factors)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        neurons = neurons_at(rows(self.factors), x.flatten(1), self.activation)
        return as_logits((neurons * signs(self.factors.shape[1], self.factors)).sum(2))

    def lifted(self) -> Lifted:
        """(Z, Z′), with gradients to the factors."""
        return lifted_of(self.factors, self.activation)
