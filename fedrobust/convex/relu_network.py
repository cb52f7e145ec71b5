"""Two-layer ReLU networks, and what one guarantees: sound, whatever trained it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedrobust.attacks.norms import Norm
from fedrobust.convex.checked import checked_labels
from fedrobust.convex.logistic import rivals
from fedrobust.convex.margins import classes_of, comparisons
from fedrobust.convex.network import as_logits


class ReluNetwork(nn.Module):
    """f_c(x) = Σ_j a_cj (w_jᵀx + b_j)₊: [B, ...] → logits [B, K], as `PolynomialNetwork`.

    Args:
        first: (w, b) [m, d + 1].
        second: a [C, m].
    """

    def __init__(self, first: Tensor, second: Tensor) -> None:
        super().__init__()
        self.first, self.second = nn.Parameter(first), nn.Parameter(second)

    def forward(self, x: Tensor) -> Tensor:
        return as_logits((with_one(x.flatten(1)) @ self.first.T).relu() @ self.second.T)

    def path_norm(self) -> Tensor:
        """Σ_j ‖(w_j, b_j)‖₂ Σ_c |a_cj|: the programme's regulariser."""
        return (torch.linalg.vector_norm(self.first, dim=1) * self.second.abs().sum(0)).sum()


def with_one(x: Tensor) -> Tensor:
    """[n, d] → [n, d + 1], a last column of ones."""
    return torch.cat([x, torch.ones_like(x[:, :1])], 1)


def margins(network: ReluNetwork, x: Tensor, y: Tensor, radius: float, norm: Norm) -> Tensor:
    """A lower bound on min over ‖δ‖ ≤ ε and rivals k of f_y(x + δ) − f_k(x + δ), [n]: sound for any ReLU network."""
    y = checked_labels(x, y, classes_of(len(network.second)))
    return rival_margins(network, x, y, radius, norm).amin(1)


@torch.no_grad()
def rival_margins(network: ReluNetwork, x: Tensor, y: Tensor, radius: float, norm: Norm) -> Tensor:
    """The same for each rival, [n, C] as `logistic.rivals` numbers them, ∞ where there is none.

    Each neuron between two lines over its range in the ball (Zhang et al. 2018, CROWN, one hidden layer): exact for
    neurons that keep their sign there, so for the programme's own training samples.
    """
    order = 1 if norm == "linf" else 2
    found = torch.full((len(x), len(network.second)), torch.inf, dtype=x.dtype, device=x.device)
    before = with_one(x) @ network.first.T
    weight = network.first[:, :-1]
    reach = radius * torch.linalg.vector_norm(weight, ord=order, dim=1)
    low, high = before - reach, before + reach
    # above: the line through both ends; below: the identity or nothing, whichever is closer
    above = torch.where(low >= 0, 1.0, torch.where(high <= 0, 0.0, high / (high - low).clamp(min=1e-300)))
    offset = torch.where((low < 0) & (high > 0), -above * low, 0.0)
    below = torch.where(low >= 0, 1.0, torch.where(high <= 0, 0.0, (high > -low).to(x.dtype)))
    for weights, index, sign in comparisons(y, len(network.second)):
        outer = sign.to(x.dtype)[:, None] * (x.new_tensor(weights) @ network.second)
        slope = outer * torch.where(outer > 0, below[index], above[index])
        value = (slope * before[index]).sum(1) + (outer.clamp(max=0) * offset[index]).sum(1)
        found[index, rivals(weights, sign)] = value - radius * torch.linalg.vector_norm(
            slope @ weight, ord=order, dim=1
        )
    return found
