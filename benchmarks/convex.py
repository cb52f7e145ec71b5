"""The convex solvers on breast cancer: objective, certified lower bound, seconds; and the scalable one at size.

    python -m benchmarks.convex                 # the small problems and n = 455, d = 30 by the first-order solver
    python -m benchmarks.convex --slow          # the cutting set at n = 455, d = 30, too: minutes
    python -m benchmarks.convex --size 10000 512  # time and memory of one step against one eigendecomposition

Samples: the split of seed 0, standardised, on its first d principal components, the first n of them.
"""

from __future__ import annotations

import argparse
import resource
from time import process_time
from typing import Any

import torch

from benchmarks.harness import record, show
from fedrobust.convex.problem import Problem, Solution
from fedrobust.convex.solvers.cutting_set import solve_cutting_set
from fedrobust.convex.solvers.first_order import Evaluation, solve_first_order, start
from fedrobust.convex.solvers.sdp import solve_sdp
from fedrobust.convex_study.samples import BREAST_CANCER, load_samples

# n, d, β, solvers
CASES: list[tuple[int, int, float, tuple[str, ...]]] = [
    (100, 5, 1e-3, ("sdp", "sdp-scs", "cutting-set", "first-order")),
    (455, 10, 1e-3, ("sdp", "cutting-set", "first-order")),
    (50, 20, 1e-3, ("cutting-set", "first-order")),
    (455, 30, 1e-2, ("first-order",)),
]
RADIUS = 0.5


def main() -> None:
    """Solve, print, append the records."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slow", action="store_true")
    parser.add_argument("--size", type=int, nargs=2, metavar=("N", "D"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.size:
        _step(*arguments.size)
        return
    rows: list[dict[str, Any]] = []
    for samples, dimension, beta, solvers in CASES:
        slow = ("cutting-set",) if arguments.slow and dimension == 30 else ()
        for name in (*solvers, *slow):
            problem = _problem(samples, dimension, beta)
            before = process_time()
            found = _solve(name, problem)
            row = {"n": samples, "d": dimension, "beta": beta, "solver": name, "objective": found.objective}
            row |= {"lower_bound": found.lower_bound, "gap": found.gap, "status": found.status}
            row |= {"seconds": found.seconds, "cpu_seconds": process_time() - before, "rounds": found.rounds}
            rows.append(row | {"neurons": len(found.network.directions)})
            print(rows[-1], flush=True)
    record("convex", {"radius": RADIUS}, rows)
    columns = ("n, d, β", "solver", "objective", "lower bound", "gap, %", "seconds", "CPU seconds", "neurons")
    show("breast cancer, r = 0.5, one thread", columns, [_cells(row) for row in rows])


def _problem(samples: int, dimension: int, beta: float) -> Problem:
    found = load_samples(BREAST_CANCER, seed=0)
    if dimension < found.x.shape[1]:
        found = found.projected(dimension)
    return Problem(found.x[:samples], found.y[:samples], RADIUS, beta)


def _solve(name: str, problem: Problem) -> Solution:
    if name == "first-order":
        return solve_first_order(problem)
    if name == "cutting-set":
        return solve_cutting_set(problem)
    return solve_sdp(problem, solver="scs" if name == "sdp-scs" else "clarabel")


def _step(samples: int, dimension: int) -> None:
    """One evaluation of objective and gradient against an eigendecomposition and the data passes that it needs."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(samples, dimension, generator=generator, dtype=torch.float64)
    problem = Problem(x, (x[:, 0] > 0).long(), RADIUS, 1e-2)
    factors = start(problem, 0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    symmetric = x[:dimension].T @ x[:dimension]
    times: dict[str, list[float]] = {"step": [], "eigendecomposition": [], "passes": []}
    for _ in range(5):
        began = process_time()
        Evaluation(problem, factors, 0.05)
        times["step"].append(process_time() - began)
        began = process_time()
        _, basis = torch.linalg.eigh(symmetric)
        times["eigendecomposition"].append(process_time() - began)
        began = process_time()
        # into the eigenbasis, back out of it, and the second moments
        turned = x @ basis
        moment = (turned @ basis.T).T @ x
        times["passes"].append(process_time() - began)
        del turned, moment
    least = {name: min(values) for name, values in times.items()}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    unit = (samples * dimension + dimension**2) * 8 / 1024
    row = {
        "n": samples,
        "d": dimension,
        **least,
        "ratio": least["step"] / (least["eigendecomposition"] + least["passes"]),
    }
    row |= {"peak_mib": peak / 1024, "peak_over_nd_plus_d2": peak / unit}
    record("convex_step", {}, [row])
    print(row)


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    return (
        f"{row['n']}, {row['d']}, {row['beta']:g}",
        row["solver"],
        f"{row['objective']:.6f}",
        f"{row['lower_bound']:.6f}",
        f"{100 * row['gap']:.2f}",
        f"{row['seconds']:.1f}",
        f"{row['cpu_seconds']:.1f}",
        str(row["neurons"]),
    )


if __name__ == "__main__":
    main()
