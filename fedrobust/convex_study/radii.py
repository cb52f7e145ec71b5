"""Networks at several radii, trained as a convex programme and by gradient descent, and what each guarantees."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from fedrobust.attacks.ball import Norm
from fedrobust.convex import certificates
from fedrobust.convex.logistic import LogisticProblem, solve_logistic
from fedrobust.convex.problem import LossName, Problem, Solution
from fedrobust.convex.relu_programme import ReluProblem, ReluSolution
from fedrobust.convex.relu_programme import margins as relu_margins
from fedrobust.convex.relu_solvers import solve_relu, solve_relu_first_order
from fedrobust.convex.solvers.cutting_set import solve_cutting_set
from fedrobust.convex.solvers.first_order import solve_first_order
from fedrobust.convex.solvers.sdp import solve_sdp
from fedrobust.convex_study.baselines import attacked, train_relu_the_usual_way, train_the_usual_way
from fedrobust.convex_study.samples import Samples
from fedrobust.errors import ConfigError
from fedrobust.seeding import torch_stream

FIRST_ORDER = "first-order"
# of polynomial networks, by loss, then of ReLU networks
SOLVERS: dict[LossName, dict[str, Callable[[Any], Solution]]] = {
    "hinge": {
        FIRST_ORDER: solve_first_order,
        "cutting-set": solve_cutting_set,
        "sdp": solve_sdp,
        "sdp-scs": partial(solve_sdp, solver="scs"),
    },
    "logistic": {FIRST_ORDER: solve_logistic},
}
RELU_SOLVERS: dict[str, Callable[..., ReluSolution]] = {
    FIRST_ORDER: solve_relu_first_order,
    "socp": solve_relu,
    "socp-scs": partial(solve_relu, solver="scs"),
}
USUAL = ("pgd", "fgsm")
STEPS, RESTARTS = 40, 10  # of the evaluation's PGD


@dataclass(frozen=True)
class Plan:
    """The networks to train and the tests to run on them.

    Attributes:
        radii, betas: radii (in `norm`) and weights of the regulariser in training; every pair is solved.
        test_radii, linf_radii: radii in l2 and l∞ at which accuracy is certified and attacked.
        patterns: number of patterns of ReLU networks; the baselines get twice as many units.
        initialisations: number of initialisations of each baseline; 0 leaves the baselines out.
    """

    radii: tuple[float, ...]
    betas: tuple[float, ...]
    test_radii: tuple[float, ...]
    linf_radii: tuple[float, ...]
    activation: str = "polynomial"
    norm: Norm = "l2"
    loss: LossName = "hinge"
    solver: str = FIRST_ORDER
    patterns: int = 20
    initialisations: int = 3

    def __post_init__(self) -> None:
        """Raise ConfigError for settings that cannot be combined."""
        solvers: Mapping[str, Any] = RELU_SOLVERS
        if self.activation == "polynomial":
            if self.norm != "l2":
                raise ConfigError("--norm linf: polynomial networks are trained in l2; use --activation relu")
            if self.loss not in SOLVERS:
                raise ConfigError(f"--loss {self.loss}: polynomial networks take {' or '.join(SOLVERS)}")
            solvers = SOLVERS[self.loss]
        if self.solver not in solvers:
            problem = f"{self.activation} networks with the {self.loss} loss"
            raise ConfigError(f"--solver {self.solver}: for {problem} there is {', '.join(solvers)}")

    @property
    def count(self) -> int:
        """The number of networks for a seed."""
        return len(self.radii) * len(self.betas) * (1 + len(USUAL) * self.initialisations)


def run_plan(plan: Plan, samples: Samples, seed: int) -> Iterator[dict[str, Any]]:
    """Yield a row per network, as soon as it is trained and tested."""
    for beta in plan.betas:
        for radius in plan.radii:
            facts = {"seed": seed, "radius": radius, "beta": beta}
            convex, usual = _methods(plan, samples, radius, beta, seed)
            yield {**facts, "method": "convex", "initialisation": 0, **measure(convex(), plan, samples, seed)}
            for method in USUAL:
                for number in range(plan.initialisations):
                    found = usual(method, seed=1000 * seed + number)
                    yield {**facts, "method": method, "initialisation": number, **measure(found, plan, samples, seed)}


def _methods(
    plan: Plan, samples: Samples, radius: float, beta: float, seed: int
) -> tuple[Callable[[], Solution | ReluSolution], Callable[..., Solution | ReluSolution]]:
    """Return the convex programme's solver, and the gradient training of the same kind of network."""
    basics = samples.x, samples.y, radius, beta, samples.num_classes
    if plan.activation == "relu":
        problem = ReluProblem(*basics, plan.norm, plan.loss)
        solve = partial(RELU_SOLVERS[plan.solver], problem, patterns=plan.patterns, seed=seed)
        return solve, partial(train_relu_the_usual_way, problem, units=2 * plan.patterns)
    problem = (Problem if plan.loss == "hinge" else LogisticProblem)(*basics)
    return partial(SOLVERS[plan.loss][plan.solver], problem), partial(train_the_usual_way, problem)


def margins(found: Solution | ReluSolution, x: Tensor, y: Tensor, radius: float, norm: Norm) -> Tensor:
    """Return a lower bound on every sample's margin in the ball [n]; exact at 0, and for polynomial networks in l2."""
    if isinstance(found, ReluSolution):
        return relu_margins(found.network, x, y, radius, norm)
    certify = certificates.l2_margins if norm == "l2" else certificates.linf_margins
    return certify(found.lifted, x, y, radius)


def measure(found: Solution | ReluSolution, plan: Plan, samples: Samples, seed: int) -> dict[str, Any]:
    """Return cost, value and accuracies on the test samples, fractions: `certified.l2@0.5`, `attacked.linf@0.1` ..."""
    x, y = samples.test_x, samples.test_y
    natural = margins(found, x, y, 0.0, "l2")
    row: dict[str, Any] = {
        "objective": found.objective,
        "lower_bound": found.lower_bound,
        "gap": found.gap,
        "status": found.status,
        "seconds": round(found.seconds, 2),
    }
    if isinstance(found, ReluSolution):
        row |= {"neurons": len(found.network.first), "violation": found.violation}
    else:
        distances = certificates.l2_distances(found.lifted, x, y)
        row |= {"neurons": len(found.network.directions), "distance": float(distances.median())}
    row["clean"] = certificates.accuracy(natural)
    tests: list[tuple[Norm, tuple[float, ...]]] = [("l2", plan.test_radii), ("linf", plan.linf_radii)]
    for norm, radii in tests:
        for radius in radii:
            generator = torch_stream(seed, "convex", "attack", device=x.device)
            worst = attacked(
                found.network, x, y, radius=radius, norm=norm, steps=STEPS, restarts=RESTARTS, generator=generator
            )
            stands = natural.minimum(margins(found, worst, y, 0.0, "l2"))
            row[f"certified.{norm}@{radius:g}"] = certificates.accuracy(margins(found, x, y, radius, norm))
            row[f"attacked.{norm}@{radius:g}"] = certificates.accuracy(stands)
    return row
