"""Polynomial networks by their neurons' factors, and by roots of the lifted variables, which gradients move."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fedrobust.convex.network import RELU_FIT, Activation, Lifted, as_logits

SPARK = 1e-12  # least eigenvalue of RᵀR over the largest, or over 1: a root of 0 would have no gradient


def signs(units: int, like: Tensor) -> Tensor:
    """Return 1 for the first half of the neurons, −1 for the second: the signs of Z and Z′."""
    return torch.where(torch.arange(units, device=like.device) < units // 2, 1.0, -1.0).to(like.dtype)


def rows(factors: Tensor) -> Tensor:
    """Return [v; ‖v‖] of each neuron, [..., m, d + 1]: with u = v/‖v‖ and |α| = ‖v‖², |α| [u;1][u;1]ᵀ is its outer
    product.
    """
    return torch.cat([factors, torch.linalg.vector_norm(factors, dim=-1, keepdim=True)], -1)


def neurons_at(rows: Tensor, x: Tensor, activation: Activation) -> Tensor:
    """Compute a (vᵀx)² + b t vᵀx + c t² for rows [v; t] [C, m, d + 1] at x [B, d]: each neuron's part of f_c without
    its sign.
    """
    a, b, c = activation
    last = rows[..., -1]
    products = torch.einsum("bd,cmd->bcm", x, rows[..., :-1])
    return a * products.square() + b * last * products + c * last.square()


def lifted_of(factors: Tensor, activation: Activation) -> Lifted:
    """Return (Z, Z′) of factors v [C, m, d]."""
    half = factors.shape[1] // 2
    first, second = (part.mT @ part for part in rows(factors).split([half, factors.shape[1] - half], 1))
    return Lifted(first, second, activation)


def random_factors(functions: int, dimension: int, generator: torch.Generator) -> Tensor:
    """Draw small random neurons, [C, 2 (d + 1), d] in float64: as many as the optimum ever needs."""
    shape = functions, 2 * (dimension + 1), dimension
    return 0.5 / dimension**0.5 * torch.randn(shape, generator=generator, dtype=torch.float64)


class FactorNetwork(nn.Module):
    """The network f_c(x) = Σ_j ± ‖v_j‖² σ(u_jᵀx), u_j = v_j/‖v_j‖: [B, ...] → logits [B, K].

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
        """Return (Z, Z′), with gradients to the factors."""
        return lifted_of(self.factors, self.activation)


class RootNetwork(nn.Module):
    """The network f_c(x) = [x;1]ᵀ (S ∘ (Z − Z′))_c [x;1] with Z = D RᵀR D: [B, ...], flattened, → logits [B, K] in
    float64.

    D = diag(s I, 1/s) is the one that makes tr Z₁ = Z₄, so that every R is a network's, and ‖α‖₁ = √(tr Z₁ Z₄) of RᵀR
    is at most ‖R‖²/2, with equality at the root that loading takes. So weight decay β on the roots is the programme's
    β ‖α‖₁ (as for the nuclear norm: Burer and Monteiro 2003). Gradient steps on R and on QR, Q orthogonal, lead to the
    same Z: which root stands for Z changes nothing, as long as the steps begin with a fresh momentum.

    **The state dict holds Z and Z′, not the roots**: what is sent, checkpointed and averaged. A mean of such state
    dicts is the state dict of a network, whose function is the mean of theirs; a mean of roots or of neurons is not.
    Loading takes R = Z^½, of the nearest positive semidefinite matrix if Z is not one (a coordinate-wise median need
    not be), its eigenvalues cut off at SPARK from below. For a network's own (Z, Z′) that is a change of rounding only.

    Args:
        functions: number C of functions; 1 for two classes.
        dimension: dimension d of x.
    """

    def __init__(self, functions: int, dimension: int, activation: Activation = RELU_FIT) -> None:
        super().__init__()
        shape = functions, dimension + 1, dimension + 1
        spread = (dimension + 1) ** -0.5 * dimension**-0.25  # ‖α‖₁ is about 1 for Z and for Z′
        self.positive = nn.Parameter(spread * torch.randn(shape, dtype=torch.float64))
        self.negative = nn.Parameter(spread * torch.randn(shape, dtype=torch.float64))
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1).to(self.positive.dtype)
        positive, negative = (
            neurons_at(balanced(root), x, self.activation).sum(2) for root in (self.positive, self.negative)
        )
        return as_logits(positive - negative)

    def lifted(self) -> Lifted:
        """Return (Z, Z′), with gradients to the roots."""
        positive, negative = (balanced(root) for root in (self.positive, self.negative))
        return Lifted(positive.mT @ positive, negative.mT @ negative, self.activation)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        lifted = self.lifted()
        for name in ("positive", "negative"):
            value = getattr(lifted, name)
            destination[prefix + name] = value if keep_vars else value.detach()

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        for name in ("positive", "negative"):
            found, root = state_dict.get(prefix + name), getattr(self, name)
            if found is not None and found.shape == root.shape:  # else the base class says what is wrong
                state_dict[prefix + name] = root_of(found.to(root))
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )


def balanced(root: Tensor) -> Tensor:
    """Return R D [C, m, d + 1]: the first d columns and the last one scaled by s and 1/s to the same Euclidean norm."""
    rest, last = root[..., :-1], root[..., -1:]
    scale = (last.square().sum((1, 2), keepdim=True) / rest.square().sum((1, 2), keepdim=True)) ** 0.25
    return torch.cat([rest * scale, last / scale], -1)


def root_of(lifted: Tensor) -> Tensor:
    """Return the symmetric root of Z [C, d + 1, d + 1], or of its positive semidefinite part; NaN stays NaN."""
    if not lifted.isfinite().all():
        return lifted
    values, vectors = torch.linalg.eigh((lifted + lifted.mT) / 2)
    least = SPARK * values[..., -1:].clamp(min=1.0)
    return (vectors * values.maximum(least).sqrt()[..., None, :]) @ vectors.mT
