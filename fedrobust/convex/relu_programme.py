"""Two-layer ReLU networks, and their training as a convex programme over sampled activation patterns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor, nn

from fedrobust.attacks.ball import Norm
from fedrobust.convex.checked import check_weights, checked_labels
from fedrobust.convex.logistic import rivals
from fedrobust.convex.margins import classes_of, comparisons, functions_of
from fedrobust.convex.network import as_logits
from fedrobust.convex.problem import LossName
from fedrobust.errors import ConfigError
from fedrobust.seeding import torch_stream

NEGLIGIBLE = 1e-4  # neurons shorter than this part of the longest are what a solver leaves of nothing


class ReluNetwork(nn.Module):
    """The network f_c(x) = Σ_j a_cj (w_jᵀx + b_j)₊: [B, ...] → logits [B, K], as `PolynomialNetwork`.

    Args:
        first: weights and biases (w, b) [m, d + 1].
        second: weights a [C, m].
    """

    def __init__(self, first: Tensor, second: Tensor) -> None:
        super().__init__()
        self.first, self.second = nn.Parameter(first), nn.Parameter(second)

    def forward(self, x: Tensor) -> Tensor:
        return as_logits((with_one(x.flatten(1)) @ self.first.T).relu() @ self.second.T)

    def path_norm(self) -> Tensor:
        """Compute Σ_j ‖(w_j, b_j)‖₂ Σ_c |a_cj|: the programme's regulariser."""
        return (torch.linalg.vector_norm(self.first, dim=1) * self.second.abs().sum(0)).sum()


def with_one(x: Tensor) -> Tensor:
    """Append a last column of ones, [n, d] → [n, d + 1]."""
    return torch.cat([x, torch.ones_like(x[:, :1])], 1)


def margins(network: ReluNetwork, x: Tensor, y: Tensor, radius: float, norm: Norm) -> Tensor:
    """Return a lower bound on min over ‖δ‖ ≤ ε and rivals k of f_y(x + δ) − f_k(x + δ), [n]: sound for any ReLU
    network.
    """
    y = checked_labels(x, y, classes_of(len(network.second)))
    return rival_margins(network, x, y, radius, norm).amin(1)


@torch.no_grad()
def rival_margins(network: ReluNetwork, x: Tensor, y: Tensor, radius: float, norm: Norm) -> Tensor:
    """Return that bound for each rival, [n, C] as `logistic.rivals` numbers them, ∞ if there is none.

    Each neuron is bounded by two lines over its range in the ball (Zhang et al. 2018, CROWN, one hidden layer). The
    bound is exact for neurons that keep their sign there, so for the programme's own training samples.
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


@dataclass(frozen=True, eq=False)
class ReluProblem:
    """The problem min (1/n) Σ_k loss_k + β Σ_i,c (‖v_ic‖₂ + ‖w_ic‖₂) over cones of vectors v, w with a given activation
    pattern.

    Samples get a last entry 1 for the neurons' biases; the adversary cannot change it. With patterns D_i and
    u_kc = Σ_i d_ik (v_ic − w_ic): f_c(x_k + δ) = (x_k + δ)ᵀ u_kc for ‖δ‖ ≤ ε, since (2D_i − I) X v_ic ≥ ε ‖v_ic‖* keeps
    every pattern in the whole ball, ‖·‖* the dual norm (l1 for l∞, l2 for l2) of all entries but the last. The worst
    margin is that of the samples minus ε ‖u_ky − u_k,rival‖*. ε = 0: standard training. Pilanci and Ergen 2020
    (arXiv 2002.10553); Bai, Gautam and Sojoudi 2021, 2022 (arXiv 2105.12237, 2201.01965). With all patterns it is the
    global optimum of networks wide enough; with sampled ones, of those whose neurons have these patterns.

    Attributes:
        x, y, radius, beta, num_classes: as in `problem.Problem`; radius ε in `norm`.
        loss: "hinge", (1 − w)₊ of the worst rival; "logistic", log(1 + Σ_k exp(−w_k)) over rivals, each at its worst;
            "squared", sup (f − y)² with y = ± 1, for two classes.
    """

    x: Tensor
    y: Tensor
    radius: float
    beta: float
    num_classes: int = 2
    norm: Norm = "linf"
    loss: LossName = "hinge"

    def __post_init__(self) -> None:
        if self.loss not in get_args(LossName) or (self.loss == "squared" and self.num_classes > 2):
            raise ConfigError(f"loss {self.loss!r}: must be hinge, logistic, or squared for two classes")
        check_weights(self.radius, self.beta)
        object.__setattr__(self, "y", checked_labels(self.x, self.y, self.num_classes))

    @property
    def functions(self) -> int:
        """The number C of functions."""
        return functions_of(self.num_classes)

    @property
    def rows(self) -> Tensor:
        """Samples with their last entry 1, [n, d + 1]."""
        return with_one(self.x)

    @property
    def dual_order(self) -> int:
        """Order p of the dual norm."""
        return 1 if self.norm == "linf" else 2

    @torch.no_grad()
    def objective(self, network: ReluNetwork) -> float:
        """Return an upper bound on the value at a network; exact if every neuron keeps its sign in every ball."""
        x = self.x.to(network.first)
        below = rival_margins(network, x, self.y, self.radius, self.norm)
        # of the opposite label: the other side of y f = 1
        above = -rival_margins(network, x, 1 - self.y, self.radius, self.norm) if self.loss == "squared" else -below
        return float(loss_of(self.loss, below, above).mean() + self.beta * network.path_norm())


@dataclass(frozen=True, eq=False)
class ReluSolution:
    """A recovered network, its objective and its lower bound.

    Attributes:
        objective: objective of the network, as `ReluProblem.objective`.
        lower_bound: lower bound on the optimum over the sampled patterns, 0 if the solver has none; recomputed here.
        status, seconds: status and time of the solver.
        violation: largest distance of a neuron from its cone, over its length; with 0 the objective is the programme's
            own value.
    """

    network: ReluNetwork
    objective: float
    lower_bound: float
    status: str
    seconds: float
    violation: float

    @property
    def gap(self) -> float:
        """The relative gap (objective − lower bound) / objective."""
        return (self.objective - self.lower_bound) / self.objective if self.objective else 0.0


def sample_patterns(x: Tensor, count: int, seed: int) -> Tensor:
    """Draw distinct D_i = 1[X g ≥ 0] of X [n, d + 1] and `count` vectors g, [P, n] of 0 and 1.

    The first g is the last unit vector, whose neurons are linear on all samples, so that there is always a feasible
    network. The others are normal.
    """
    generator = torch_stream(seed, "convex", "patterns")
    vectors = torch.randn(x.shape[1], count, generator=generator, dtype=torch.float64).to(x)
    vectors[:, 0] = torch.eye(x.shape[1])[-1]
    return torch.unique((x @ vectors >= 0).T, dim=0).to(x.dtype)


def recover_relu(plus: Tensor, minus: Tensor) -> ReluNetwork:
    """Return the network Σ_i (v_icᵀx)₊ − (w_icᵀx)₊ of v, w [P, C, d + 1], without negligible neurons."""
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
    """Compute (ε ‖v‖* − (2d − 1) xᵀv)₊ of v [P, C, d + 1], for every sample: [n, P, C]."""
    inside = (2 * patterns.T - 1)[:, :, None] * torch.einsum("nd,pcd->npc", problem.rows, vectors)
    reach = problem.radius * torch.linalg.vector_norm(vectors[..., :-1], ord=problem.dual_order, dim=2)
    return (reach - inside).clamp(min=0)


def relative_violation(patterns: Tensor, problem: ReluProblem, *parts: Tensor) -> float:
    """Return the largest `violation` over a neuron's length, of v, w [P, C, d + 1]; negligible neurons do not count."""
    vectors = torch.cat(parts, 1)
    length = torch.linalg.vector_norm(vectors, dim=2)
    counts = length > NEGLIGIBLE * length.max()
    return float((violation(patterns, problem, vectors).amax(0)[counts] / length[counts]).max())


def loss_of(loss: LossName, below: Tensor, above: Tensor) -> Tensor:
    """Compute the loss per sample [n], from the least y f against each rival [n, C] (∞: none) and, for "squared", the
    greatest.
    """
    if loss == "logistic":
        return torch.logsumexp(torch.cat([torch.zeros_like(below[:, :1]), -below], 1), 1)
    short = (1 - below.amin(1)).clamp(min=0)
    return torch.maximum(short, above.amax(1) - 1).square() if loss == "squared" else short
