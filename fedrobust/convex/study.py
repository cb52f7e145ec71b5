"""Networks at several radii, trained as a convex programme and the usual way, and what each guarantees."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from fedrobust.attacks.norms import Norm
from fedrobust.convex import certificates
from fedrobust.convex.cutting_set import solve_cutting_set
from fedrobust.convex.first_order import solve_first_order
from fedrobust.convex.problem import Problem, Solution
from fedrobust.convex.samples import Samples
from fedrobust.convex.sdp import solve_sdp
from fedrobust.convex.usual import attacked, train_the_usual_way
from fedrobust.seeding import torch_stream

SOLVERS: dict[str, Callable[[Problem], Solution]] = {
    "first-order": solve_first_order,
    "cutting-set": solve_cutting_set,
    "sdp": solve_sdp,
    "sdp-scs": partial(solve_sdp, solver="scs"),
}
USUAL = ("pgd", "fgsm")
STEPS, RESTARTS = 40, 10  # of the evaluation's PGD


@dataclass(frozen=True)
class Plan:
    """What is trained and how it is tested; radii are l2 unless said.

    Attributes:
        radii, betas: of training; every pair is solved.
        test_radii, linf_radii: at which accuracy is certified and attacked.
        initialisations: of each usual method; 0 leaves them out.
    """

    radii: tuple[float, ...]
    betas: tuple[float, ...]
    test_radii: tuple[float, ...]
    linf_radii: tuple[float, ...]
    solver: str = "first-order"
    initialisations: int = 3

    @property
    def count(self) -> int:
        """Networks for a seed."""
        return len(self.radii) * len(self.betas) * (1 + len(USUAL) * self.initialisations)


def run_plan(plan: Plan, samples: Samples, seed: int) -> Iterator[dict[str, Any]]:
    """A row per network, as soon as it is trained and tested."""
    for beta in plan.betas:
        for radius in plan.radii:
            problem = Problem(samples.x, samples.y, radius, beta, samples.num_classes)
            facts = {"seed": seed, "radius": radius, "beta": beta}
            found = SOLVERS[plan.solver](problem)
            yield {**facts, "method": "convex", "initialisation": 0, **measure(found, plan, samples, seed)}
            for method in USUAL:
                for number in range(plan.initialisations):
                    found = train_the_usual_way(problem, method, seed=1000 * seed + number)
                    yield {**facts, "method": method, "initialisation": number, **measure(found, plan, samples, seed)}


def measure(found: Solution, plan: Plan, samples: Samples, seed: int) -> dict[str, Any]:
    """Cost, value and accuracies on the test samples, fractions: `certified.l2@0.5`, `attacked.linf@0.1` ..."""
    lifted, x, y = found.lifted, samples.test_x, samples.test_y
    row: dict[str, Any] = {
        "objective": found.objective,
        "lower_bound": found.lower_bound,
        "gap": found.gap,
        "status": found.status,
        "seconds": round(found.seconds, 2),
        "neurons": len(found.network.directions),
        "clean": certificates.accuracy(certificates.l2_margins(lifted, x, y, 0.0)),
        "distance": float(certificates.l2_distances(lifted, x, y).median()),
    }
    tests: list[tuple[Norm, tuple[float, ...], Callable[..., Tensor]]] = [
        ("l2", plan.test_radii, certificates.l2_margins),
        ("linf", plan.linf_radii, certificates.linf_margins),
    ]
    for norm, radii, certify in tests:
        for radius in radii:
            generator = torch_stream(seed, "convex", "attack")
            worst = attacked(
                found.network, x, y, radius=radius, norm=norm, steps=STEPS, restarts=RESTARTS, generator=generator
            )
            stands = certificates.l2_margins(lifted, x, y, 0.0).minimum(certificates.l2_margins(lifted, worst, y, 0.0))
            row[f"certified.{norm}@{radius:g}"] = certificates.accuracy(certify(lifted, x, y, radius))
            row[f"attacked.{norm}@{radius:g}"] = certificates.accuracy(stands)
    return row
