"""Two-layer ReLU networks as a convex programme over sampled activation patterns, and what one guarantees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from fedrobust.attacks.norms import Norm
from fedrobust.convex.margins import comparisons, functions_of
from fedrobust.convex.network import as_logits
from fedrobust.seeding import torch_stream

NEGLIGIBLE = 1e-4  # neurons shorter than this part of the longest are what a solver leaves of nothing


@dataclass(frozen=True, eq=False)
class ReluProblem:
    """min (1/n) Σ_k loss_k + β Σ_i,c (‖v_ic‖₂ + ‖w_ic‖₂) over cones of vectors v, w with a given activation pattern.

    With patterns D_i and u_kc = Σ_i d_ik (v_ic − w_ic): f_c(x_k + δ) = (x_k + δ)ᵀ u_kc for ‖δ‖ ≤ ε, since
    (2D_i − I) X v_ic ≥ ε ‖v_ic‖* keeps every pattern in the whole ball, ‖·‖* the dual norm (l1 for l∞, l2 for l2). The
    worst margin is that of the samples minus ε ‖u_ky − u_k,rival‖*. ε = 0: standard training. Pilanci and Ergen 2020
    (arXiv 2002.10553); Bai, Gautam and Sojoudi 2021, 2022 (arXiv 2105.12237, 2201.01965). With all patterns it is the
    global optimum of networks wide enough; with sampled ones, of those whose neurons have these patterns.

    Attributes:
        x, y, radius, beta, num_classes: as of `problem.Problem`; radius ε in `norm`.
        loss: "hinge", (1 − w)₊; "squared", sup (f − y)² with y = ± 1, for two classes.
    """

    x: Tensor
    y: Tensor
    radius: float
    beta: float
    num_classes: int = 2
    norm: Norm = "linf"
    loss: Literal["hinge", "squared"] = "hinge"

    def __post_init__(self) -> None:
        if self.loss not in ("hinge", "squared") or (self.loss == "squared" and self.num_classes > 2):
            raise ValueError(f"loss {self.loss!r}: must be hinge, or squared for two classes")

    @property
    def functions(self) -> int:
        """C."""
        return functions_of(self.num_classes)

    @property
    def dual_order(self) -> int:
        """p of the dual norm."""
        return 1 if self.norm == "linf" else 2

    @torch.no_grad()
    def objective(self, network: ReluNetwork) -> float:
        """An upper bound on the value at a network; exact where every neuron keeps its sign in every ball."""
        x = self.x.to(network.first)
        loss = (1 - margins(network, x, self.y, self.radius, self.norm)).clamp(min=0)
        if self.loss == "squared":
            # the other side of y f = 1: the worst case for the opposite label
            loss = torch.maximum(loss, -1 - margins(network, x, 1 - self.y, self.radius, self.norm)).square()
        length = torch.linalg.vector_norm(network.first, dim=1)
        return float(loss.mean() + self.beta * (length * network.second.abs().sum(0)).sum())


@dataclass(frozen=True, eq=False)
class ReluSolution:
    """A recovered network.

    Attributes:
        objective: of the network, as `ReluProblem.objective`.
        status, seconds: of the solver.
        violation: by how much a neuron leaves its cone at most, over its length; 0: the programme's own value.
    """

    network: ReluNetwork
    objective: float
    status: str
    seconds: float
    violation: float


class ReluNetwork(nn.Module):
    """f_c(x) = Σ_j a_cj (w_jᵀx)₊: [B, ...] → logits [B, K], as `PolynomialNetwork`.

    Args:
        first: w [m, d].
        second: a [C, m].
    """

    def __init__(self, first: Tensor, second: Tensor) -> None:
        super().__init__()
        self.first, self.second = nn.Parameter(first), nn.Parameter(second)

    def forward(self, x: Tensor) -> Tensor:
        return as_logits((x.flatten(1) @ self.first.T).relu() @ self.second.T)


def sample_patterns(x: Tensor, count: int, seed: int) -> Tensor:
    """Distinct D_i = 1[X g ≥ 0] of at most `count` normal vectors g, and of their opposites: [P, n] of 0 and 1."""
    generator = torch_stream(seed, "convex", "patterns")
    vectors = torch.randn(x.shape[1], count, generator=generator, dtype=torch.float64).to(x)
    return torch.unique((x @ vectors >= 0).T, dim=0).to(x.dtype)


def recover_relu(plus: Tensor, minus: Tensor) -> ReluNetwork:
    """The network Σ_i (v_icᵀx)₊ − (w_icᵀx)₊ of v, w [P, C, d], without negligible neurons."""
    first, second = [], []
    longest = torch.linalg.vector_norm(torch.cat([plus, minus]), dim=2).max()
    for part, sign in ((plus, 1.0), (minus, -1.0)):
        for function in range(part.shape[1]):
            units = part[:, function]
            units = units[torch.linalg.vector_norm(units, dim=1) > NEGLIGIBLE * longest]
            column = units.new_zeros(part.shape[1], len(units))
            column[function] = sign
            first.append(units)
            second.append(column)
    return ReluNetwork(torch.cat(first), torch.cat(second, 1))


def violation(patterns: Tensor, problem: ReluProblem, vectors: Tensor) -> Tensor:
    """(ε ‖v‖* − (2d − 1) xᵀv)₊ of v [P, C, d], for every sample: [n, P, C]."""
    inside = (2 * patterns.T - 1)[:, :, None] * torch.einsum("nd,pcd->npc", problem.x, vectors)
    return (problem.radius * torch.linalg.vector_norm(vectors, ord=problem.dual_order, dim=2) - inside).clamp(min=0)


def relative_violation(patterns: Tensor, problem: ReluProblem, *parts: Tensor) -> float:
    """The largest `violation` over a neuron's length, of v, w [P, C, d]; negligible neurons do not count."""
    vectors = torch.cat(parts, 1)
    length = torch.linalg.vector_norm(vectors, dim=2)
    counts = length > NEGLIGIBLE * length.max()
    return float((violation(patterns, problem, vectors).amax(0)[counts] / length[counts]).max())


@torch.no_grad()
def margins(network: ReluNetwork, x: Tensor, y: Tensor, radius: float, norm: Norm) -> Tensor:
    """A lower bound on min over ‖δ‖ ≤ ε and rivals k of f_y(x + δ) − f_k(x + δ), [n]: sound for any ReLU network.

    Each neuron between two lines over its range in the ball (Zhang et al. 2018, CROWN, one hidden layer): exact for
    neurons that keep their sign there, so for the programme's own training samples.
    """
    order = 1 if norm == "linf" else 2
    lowest = torch.full((len(x),), torch.inf, dtype=x.dtype, device=x.device)
    before = x @ network.first.T
    reach = radius * torch.linalg.vector_norm(network.first, ord=order, dim=1)
    low, high = before - reach, before + reach
    # above: the line through both ends; below: the identity or nothing, whichever is closer
    above = torch.where(low >= 0, 1.0, torch.where(high <= 0, 0.0, high / (high - low).clamp(min=1e-300)))
    offset = torch.where((low < 0) & (high > 0), -above * low, 0.0)
    below = torch.where(low >= 0, 1.0, torch.where(high <= 0, 0.0, (high > -low).to(x.dtype)))
    for weights, index, sign in comparisons(y, len(network.second)):
        outer = sign.to(x.dtype)[:, None] * (x.new_tensor(weights) @ network.second)
        slope = outer * torch.where(outer > 0, below[index], above[index])
        value = (slope * before[index]).sum(1) + (outer.clamp(max=0) * offset[index]).sum(1)
        found = value - radius * torch.linalg.vector_norm(slope @ network.first, ord=order, dim=1)
        lowest[index] = torch.minimum(lowest[index], found)
    return lowest
