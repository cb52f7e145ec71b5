"""What label skew costs, exactly: federated averaging of lifted polynomial networks against the certified optimum.

    python -m benchmarks.convex_federated --clients 5 --rounds 20 --seeds 0 1 2 3 4 --out experiments/convex-federated

Breast cancer, the split of `fedrobust convex`; clients as of `partitions`. The gap is (objective of the federated model
over all training samples) − (objective of the centralised one), and the centralised one is known to be within its own
gap of the global optimum.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pandas as pd
import torch
from matplotlib.ticker import MaxNLocator

from benchmarks.harness import record, show
from fedrobust.convex.certificates import accuracy, l2_margins
from fedrobust.convex.federated import federate
from fedrobust.convex.first_order import solve_first_order
from fedrobust.convex.problem import Problem
from fedrobust.convex.samples import BREAST_CANCER, load_samples
from fedrobust.report import style
from fedrobust.seeding import numpy_stream
from partitions import dirichlet, iid

SKEWS = {"Dir(0.1)": 0.1, "Dir(0.5)": 0.5, "IID": math.inf}


def main() -> None:
    """Run, print, append the records, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--local-steps", type=int, nargs="+", default=[1, 20])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--radius", type=float, default=0.5)
    parser.add_argument("--beta", type=float, default=0.01)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = [row for seed in arguments.seeds for row in _of_seed(arguments, seed)]
    results = _last_rounds(rows)
    record("convex_federated", {key: str(value) for key, value in vars(arguments).items()}, results)
    columns = ("skew", "local steps", "gap, %", "std", "centralised gap, %", "clean", "certified", "centralised")
    show(
        f"breast cancer, {arguments.clients} clients, after {arguments.rounds} rounds, {len(arguments.seeds)} seeds",
        columns,
        [
            (
                result["skew"],
                str(result["local_steps"]),
                f"{100 * result['gap']:.2f}",
                f"{100 * result['gap_std']:.2f}",
                f"{100 * result['centralised_gap']:.2f}",
                f"{100 * result['clean']:.1f}",
                f"{100 * result['certified']:.1f}",
                f"{100 * result['centralised_certified']:.1f}",
            )
            for result in results
        ],
    )
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        pd.DataFrame(rows).to_csv(arguments.out / "rounds.csv", index=False)
        pd.DataFrame(results).to_csv(arguments.out / "results.csv", index=False)
        _draw(rows, arguments.out / "gap.png")


def _of_seed(arguments: argparse.Namespace, seed: int) -> list[dict[str, Any]]:
    samples = load_samples(BREAST_CANCER, seed=seed)
    problem = Problem(samples.x, samples.y, arguments.radius, arguments.beta)
    central = solve_first_order(problem)
    certified = accuracy(l2_margins(central.lifted, samples.test_x, samples.test_y, arguments.radius))
    rows = []
    for skew, concentration in SKEWS.items():
        rng = numpy_stream(seed, "partition")
        labels = samples.y.numpy()
        if math.isinf(concentration):
            parts = iid(labels, arguments.clients, rng)
        else:
            parts = dirichlet(labels, arguments.clients, rng, concentration=concentration, min_samples=5)
        shards = [torch.from_numpy(part) for part in parts]
        for local_steps in arguments.local_steps:
            for state in federate(problem, shards, rounds=arguments.rounds, local_steps=local_steps, seed=seed):
                margins = (l2_margins(state.model, samples.test_x, samples.test_y, r) for r in (0.0, arguments.radius))
                clean, robust = map(accuracy, margins)
                rows.append(
                    {
                        "seed": seed,
                        "skew": skew,
                        "local_steps": local_steps,
                        "round": state.number,
                        "objective": state.objective,
                        "gap": (state.objective - central.objective) / central.objective,
                        "clean": clean,
                        "certified": robust,
                        "centralised_objective": central.objective,
                        "centralised_gap": central.gap,
                        "centralised_certified": certified,
                    }
                )
            print(f"seed {seed}  {skew}  {local_steps} local steps: gap {100 * rows[-1]['gap']:.2f} %", flush=True)
    return rows


def _last_rounds(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over seeds after the last round."""
    last = [row for row in rows if row["round"] == rows[-1]["round"]]
    results = []
    for skew in SKEWS:
        for steps in dict.fromkeys(row["local_steps"] for row in last):
            part = [row for row in last if row["skew"] == skew and row["local_steps"] == steps]
            names = ("gap", "centralised_gap", "clean", "certified", "centralised_certified", "objective")
            gaps = [row["gap"] for row in part]
            means = {name: fmean(row[name] for row in part) for name in names}
            spread = stdev(gaps) if len(gaps) > 1 else 0.0
            results.append({"skew": skew, "local_steps": steps, **means, "gap_std": spread, "seeds": len(part)})
    return results


def _draw(rows: list[dict[str, Any]], path: Path) -> None:
    """The gap against the round: a colour per skew, dashes per number of local steps."""
    figure = style.figure(5.6, 3.4, [f"{skew}, 20 local steps" for skew in SKEWS] * 2)
    axes = figure.subplots()
    for colour, skew in enumerate(SKEWS):
        for dash, steps in enumerate(sorted({row["local_steps"] for row in rows})):
            part = [row for row in rows if row["skew"] == skew and row["local_steps"] == steps]
            rounds = sorted({row["round"] for row in part})
            means = [fmean(row["gap"] for row in part if row["round"] == number) for number in rounds]
            name = f"{skew}, {steps} local step{'s' if steps > 1 else ''}"
            axes.plot(
                rounds,
                [100 * gap for gap in means],
                label=name,
                color=style.colour(colour),
                linestyle=style.LINES[dash],
            )
    axes.set_yscale("log")
    axes.set_xlabel("round")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel("objective above the centralised one, %")
    style.plain(axes)
    style.legend_below(figure, [axes])
    figure.savefig(path, dpi=style.DPI)


if __name__ == "__main__":
    main()
