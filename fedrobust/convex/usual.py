"""The same network trained the usual way: minibatches, an attack as the inner maximisation, no proof of optimality."""

from __future__ import annotations

from functools import partial
from time import perf_counter
from typing import Literal

import torch
from torch import Tensor, nn

from fedrobust.attacks import pgd
from fedrobust.attacks.norms import Norm
from fedrobust.convex.factors import FactorNetwork, random_factors
from fedrobust.convex.problem import Problem, Solution, solution
from fedrobust.losses import margin
from fedrobust.seeding import torch_stream

STEPS = 10  # of PGD


class Rescaled(nn.Module):
    """A network behind pixels: inputs in [0, 1] go back to where they were, ± `reach` around 0.

    The attacks here clip to [0, 1]. With `reach` beyond every sample and its ball, that changes nothing for vectors.
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
    """PGD on the margin with decaying steps against samples that are no pixels, [n, d]: each at its worst restart."""
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


def train_the_usual_way(
    problem: Problem,
    attack: Literal["pgd", "fgsm"],
    *,
    epochs: int = 60,
    batch_size: int = 64,
    learning_rate: float = 0.01,
    seed: int = 0,
) -> Solution:
    """Adversarial training (Madry et al. 2018) of 2 (d + 1) units per function on the programme's own objective.

    Hinge on adversarial examples, made by PGD-10 in the l2 ball from a uniform start or in one step from the sample
    itself, plus β ‖α‖₁; Adam, its rate falling along a cosine. Returned like a convex solution, so that objectives
    compare: worst cases are taken exactly after training, the lower bound is 0.
    """
    started = perf_counter()
    generator = torch_stream(seed, "convex", "usual", attack)
    factors = random_factors(problem.functions, problem.x.shape[1], generator).to(problem.x)
    network = FactorNetwork(factors, problem.activation)
    reach = float(problem.x.abs().max()) + problem.radius
    behind, epsilon = Rescaled(network, reach), problem.radius / (2 * reach)
    scaled = 0.5 + problem.x / (2 * reach)
    optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate)
    batches = -(-len(scaled) // batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * batches)
    steps, start = (1, "zero") if attack == "fgsm" else (STEPS, "uniform")
    climb = partial(
        pgd,
        epsilon=epsilon,
        norm="l2",
        steps=steps,
        step_size=(1 if steps == 1 else 2.5 / steps) * epsilon,
        random_start=start,
        loss=margin,
        generator=generator,
    )
    for _ in range(epochs):
        for chosen in torch.randperm(len(scaled), generator=generator).split(batch_size):
            x, y = scaled[chosen], problem.y[chosen]
            if epsilon:
                x = climb(behind, x, y)
            hinge = (1 + margin(behind(x), y)).clamp(min=0).mean()
            loss = hinge + problem.beta * network.factors.square().sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        found = FactorNetwork(network.factors.double(), problem.activation).lifted()
    return solution(problem, found, 0.0, started=started, status="trained", rounds=epochs * batches)
