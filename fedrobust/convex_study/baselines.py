"""Baselines: networks trained on minibatches with an attack as inner maximisation, without a proof of optimality."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import Literal

import torch
from torch import Tensor, nn

from fedrobust.attacks import pgd
from fedrobust.attacks.ball import Norm
from fedrobust.convex.factors import FactorNetwork, random_factors
from fedrobust.convex.problem import LossName, Programme, Solution, solution
from fedrobust.convex.relu_programme import ReluNetwork, ReluProblem, ReluSolution
from fedrobust.losses import cross_entropy, margin
from fedrobust.seeding import torch_stream

STEPS = 10  # of PGD
STREAM = "convex", "usual"

Attack = Literal["pgd", "fgsm"]


class Rescaled(nn.Module):
    """A network on pixels: inputs in [0, 1] are scaled back to ± `reach` around 0.

    The attacks here clip to [0, 1]. With `reach` beyond every sample and its ball, clipping has no effect on vectors.
    """

    def __init__(self, network: nn.Module, reach: float) -> None:
        super().__init__()
        self.network, self.reach = network, reach

    def forward(self, x: Tensor) -> Tensor:
        return self.network((x - 0.5) * (2 * self.reach))


def attacked(
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    radius: float,
    norm: Norm,
    steps: int,
    restarts: int,
    generator: torch.Generator,
) -> Tensor:
    """Attack samples that are not pixels, [n, d], by PGD on the margin with decaying steps; each keeps its worst
    restart.
    """
    if not radius:
        return x
    reach = float(x.abs().max()) + radius
    scaled = pgd(
        Rescaled(network, reach),
        0.5 + x / (2 * reach),
        y,
        epsilon=radius / (2 * reach),
        step_size=2 * radius / (2 * reach),
        steps=steps,
        norm=norm,
        restarts=restarts,
        decay="linear",
        loss=margin,
        generator=generator,
    )
    return (scaled - 0.5) * (2 * reach)


def _hinge(logits: Tensor, y: Tensor) -> Tensor:
    return (1 + margin(logits, y)).clamp(min=0)


def _squared(logits: Tensor, y: Tensor) -> Tensor:
    return (1 + margin(logits, y)).square()


LOSSES: dict[LossName, Callable[[Tensor, Tensor], Tensor]] = {
    "hinge": _hinge,
    "squared": _squared,
    "logistic": cross_entropy,
}


def train_the_usual_way(problem: Programme, attack: Attack, *, epochs: int = 60, seed: int = 0) -> Solution:
    """Train a polynomial network of 2 (d + 1) units per function adversarially, as `_train` does.

    The result has the form of a convex solution, so that objectives can be compared: worst cases are taken exactly
    after training, the lower bound is 0.
    """
    started = perf_counter()
    generator = torch_stream(seed, *STREAM, attack)
    factors = random_factors(problem.functions, problem.x.shape[1], generator).to(problem.x)
    network = FactorNetwork(factors, problem.activation)
    steps = _train(network, lambda: network.factors.square().sum(), problem, attack, epochs, seed)
    with torch.no_grad():
        found = FactorNetwork(network.factors.double(), problem.activation).lifted()
    return solution(problem, found, 0.0, started=started, status="trained", rounds=steps)


def train_relu_the_usual_way(
    problem: ReluProblem, attack: Attack, *, units: int, epochs: int = 60, seed: int = 0
) -> ReluSolution:
    """Train a ReLU network of that many units, as `train_the_usual_way` does; its objective is an upper bound
    (`ReluProblem.objective`).
    """
    started = perf_counter()
    generator = torch_stream(seed, *STREAM, attack)
    shapes = (units, problem.x.shape[1] + 1), (problem.functions, units)
    first, second = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    size = problem.x.shape[1] ** 0.5
    network = ReluNetwork((first / size).to(problem.x), (second / units**0.5).to(problem.x))
    _train(network, network.path_norm, problem, attack, epochs, seed)
    found = ReluNetwork(network.first.detach().double(), network.second.detach().double())
    return ReluSolution(found, problem.objective(found), 0.0, "trained", perf_counter() - started, 0.0)


def _train(
    network: nn.Module,
    size: Callable[[], Tensor],
    problem: Programme | ReluProblem,
    attack: Attack,
    epochs: int,
    seed: int,
    *,
    batch_size: int = 64,
    learning_rate: float = 0.01,
) -> int:
    """Train in place on the programme's own objective (Madry et al. 2018); return the number of steps.

    The loss on adversarial examples, made by PGD-10 in the ball from a uniform start or in one step from the sample
    itself, plus β times the regulariser `size`; Adam, its rate falling along a cosine.
    """
    reach = float(problem.x.abs().max()) + problem.radius
    behind, epsilon = Rescaled(network, reach), problem.radius / (2 * reach)
    scaled = 0.5 + problem.x / (2 * reach)
    optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate)
    order = torch_stream(seed, *STREAM, attack, "order")
    batches = -(-len(scaled) // batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * batches)
    steps, start = (1, "zero") if attack == "fgsm" else (STEPS, "uniform")
    climb = partial(
        pgd,
        epsilon=epsilon,
        norm=problem.norm,
        steps=steps,
        step_size=(1 if steps == 1 else 2.5 / steps) * epsilon,
        random_start=start,
        loss=margin,
        generator=torch_stream(seed, *STREAM, attack, "noise", device=problem.x.device),
    )
    for _ in range(epochs):
        for chosen in torch.randperm(len(scaled), generator=order).split(batch_size):
            x, y = scaled[chosen], problem.y[chosen]
            if epsilon:
                x = climb(behind, x, y)
            loss = LOSSES[problem.loss](behind(x), y).mean() + problem.beta * size()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return epochs * batches
