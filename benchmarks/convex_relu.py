"""ReLU networks over 20 sampled patterns on breast cancer: objective, lower bound, clean and attacked accuracy.

    python -m benchmarks.convex_relu --seeds 0 1

The first 100 training samples of the split of seed 0, β = 0.001, l∞ radii 0, 0.05 and 0.1, hinge, by `solve_relu`;
tested on the 114 test samples at l∞ 0.1. Seeds are those of the patterns.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch

from benchmarks.harness import record, show
from fedrobust.convex.relu_programme import ReluProblem
from fedrobust.convex.relu_solvers import solve_relu
from fedrobust.convex_study.radii import Plan, measure
from fedrobust.convex_study.samples import BREAST_CANCER, load_samples

SAMPLES, BETA, RADII, TESTED = 100, 1e-3, (0.0, 0.05, 0.1), 0.1


def main() -> None:
    """Solve, print, append the records."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    samples = load_samples(BREAST_CANCER, seed=0)
    plan = Plan(RADII, (BETA,), (), (TESTED,), activation="relu", norm="linf", solver="socp")
    rows: list[dict[str, Any]] = []
    for seed in arguments.seeds:
        for radius in RADII:
            problem = ReluProblem(samples.x[:SAMPLES], samples.y[:SAMPLES], radius, BETA)
            found = solve_relu(problem, patterns=plan.patterns, seed=seed)
            rows.append({"patterns_seed": seed, "radius": radius, **measure(found, plan, samples, seed)})
            print(rows[-1], flush=True)
    record("convex_relu", {"n": SAMPLES, "beta": BETA, "patterns": plan.patterns}, rows)
    columns = ("patterns' seed", "ε", "objective", "lower bound", "clean", "certified", "PGD", "neurons", "seconds")
    show(f"{SAMPLES} samples of breast cancer, tested at l∞ {TESTED}", columns, [_cells(row) for row in rows])


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    accuracies = (row[name] for name in ("clean", f"certified.linf@{TESTED:g}", f"attacked.linf@{TESTED:g}"))
    return (
        str(row["patterns_seed"]),
        f"{row['radius']:g}",
        f"{row['objective']:.4f}",
        f"{row['lower_bound']:.4f}",
        *(f"{100 * value:.1f}" for value in accuracies),
        str(row["neurons"]),
        f"{row['seconds']:.1f}",
    )


if __name__ == "__main__":
    main()
