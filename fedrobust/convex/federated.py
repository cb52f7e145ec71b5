"""Federated training of polynomial networks: clients exchange lifted variables, which average.

A mean of (Z, Z′) of networks is a network's, with ‖α‖₁ no larger than the mean of theirs: the cones are convex.
Neurons do not average. Certificates are recomputed for each mean. As the optimum over all samples has a certified
lower bound, what a partition costs is known exactly, up to the width of that bound's gap.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedrobust.convex.factors import lifted_of
from fedrobust.convex.first_order import Evaluation
from fedrobust.convex.lifted import Lifted, mean_of
from fedrobust.convex.network import neurons
from fedrobust.convex.problem import Problem, nothing
from fedrobust.seeding import torch_stream

SMOOTHING = 0.05  # γ of the clients' hinge
SPARK = 1e-2  # length of neurons that are not there yet; at 0 their gradient would be 0, too


@dataclass(frozen=True, eq=False)
class Round:
    """The global model after a round, and its objective over the samples of all clients."""

    number: int
    model: Lifted
    objective: float


def federate(
    problem: Problem, shards: Sequence[Tensor], *, rounds: int, local_steps: int, seed: int = 0
) -> Iterator[Round]:
    """Rounds of: every client takes `local_steps` steps of L-BFGS on its shard; the server averages by size.

    (Z, Z′) ← Σ_k n_k (Z_k, Z_k′) / n, starting from no neurons. A client turns (Z, Z′) into neurons, at most d + 1 of
    each sign, moves them, and sends their (Z_k, Z_k′). Limit case: one client with all samples is centralised training.

    Args:
        problem: of all samples; clients have its radius and β.
        shards: indices into its samples, one tensor per client.
    """
    model = nothing(problem)
    sizes = [float(len(shard)) for shard in shards]
    for number in range(1, rounds + 1):
        replies = []
        for client, shard in enumerate(shards):
            own = replace(problem, x=problem.x[shard], y=problem.y[shard])
            generator = torch_stream(seed, "convex", "client", client, number)
            replies.append(_trained(own, model, local_steps, generator))
        model = mean_of(replies, sizes)
        yield Round(number, model, problem.objective(model))


def _trained(problem: Problem, model: Lifted, steps: int, generator: torch.Generator) -> Lifted:
    """The model after a client's steps."""
    factors = factors_of(model, generator).to(problem.x).requires_grad_()
    optimizer = torch.optim.LBFGS(
        [factors], max_iter=steps, history_size=20, tolerance_grad=1e-10, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        found = Evaluation(problem, factors.detach(), SMOOTHING)
        factors.grad = found.gradient
        return found.loss

    optimizer.step(closure)
    return lifted_of(factors.detach().double(), problem.activation)


def factors_of(model: Lifted, generator: torch.Generator) -> Tensor:
    """Factors v [C, 2 (d + 1), d] of (Z, Z′), where there is no neuron a random one of length about SPARK."""
    size = model.positive.shape[-1]
    shape = len(model.positive), 2, size, size - 1
    factors = SPARK / size**0.5 * torch.randn(shape, generator=generator, dtype=torch.float64)
    for function, pair in enumerate(zip(model.positive, model.negative, strict=True)):
        for side, matrix in enumerate(pair):
            directions, weights = neurons(matrix)
            factors[function, side, : len(weights)] = directions * weights.sqrt()[:, None]
    return factors.flatten(1, 2)
