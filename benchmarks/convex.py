"""The convex programmes: their solvers, ReLU networks, and federations against the certified optimum.

    python -m benchmarks.convex solvers          # the small problems and n = 455, d = 30 by the first-order solver
    python -m benchmarks.convex solvers --slow   # the cutting set at n = 455, d = 30, too: minutes
    python -m benchmarks.convex step 10000 512   # time and memory of one step against one eigendecomposition
    python -m benchmarks.convex relu --seeds 0 1
    python -m benchmarks.convex federated --runs sweeps/convex-skew --out experiments/convex/federated
    python -m benchmarks.convex federated --of runs/convex-digits-20261121-120000 ...

solvers: objective, certified lower bound and seconds on breast cancer: the split of seed 0, standardised, on its first
d principal components, the first n samples of them.

relu: ReLU networks over 20 sampled patterns, the first 100 training samples of the split of seed 0, β = 0.001, l∞ radii
0, 0.05 and 0.1, hinge, by `solve_relu`; tested on the 114 test samples at l∞ 0.1. Seeds are those of the patterns.

federated: what label skew costs, exactly. Every run of the study is carried out in this process, as `fedrobust sweep`
would with engine local, and the programme's objective over the union of the clients' training images is taken exactly
after each round. The gap is (that objective − the centralised one) / the centralised one, which is known to be within
its own gap of the global optimum. `--of` gives that gap for the last models of any runs.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
from functools import lru_cache
from pathlib import Path
from statistics import fmean, stdev
from time import process_time
from typing import Any

import numpy as np
import pandas as pd
import torch

from benchmarks.harness import record, show
from clients.app import app
from fedrobust.config import RunConfig
from fedrobust.convex.certificates import accuracy, l2_margins
from fedrobust.convex.network import Lifted
from fedrobust.convex.problem import Problem, Solution
from fedrobust.convex.relu_programme import ReluProblem
from fedrobust.convex.relu_solvers import solve_relu
from fedrobust.convex.solvers.cutting_set import solve_cutting_set
from fedrobust.convex.solvers.first_order import Evaluation, solve_first_order, start
from fedrobust.convex.solvers.sdp import solve_sdp
from fedrobust.convex_study.radii import Plan, measure
from fedrobust.convex_study.samples import BREAST_CANCER, load_samples
from fedrobust.data.device import DeviceImages
from fedrobust.data.split import split_of
from fedrobust.engines.local import LocalGrid
from fedrobust.reports import style
from fedrobust.storage.checkpoint import Arrays, Checkpoint, load_model
from fedrobust.storage.run_folder import RunFolder
from fedrobust.studies import load_study
from fedrobust.studies.plan import PlannedRun, plan_sweep
from fedrobust.training.context import run_context
from strategies.federation import Federation

# n, d, β, solvers
CASES: list[tuple[int, int, float, tuple[str, ...]]] = [
    (100, 5, 1e-3, ("sdp", "sdp-scs", "cutting-set", "first-order")),
    (455, 10, 1e-3, ("sdp", "cutting-set", "first-order")),
    (50, 20, 1e-3, ("cutting-set", "first-order")),
    (455, 30, 1e-2, ("first-order",)),
]
RADIUS = 0.5
# of ReLU networks: samples, β, radii, the radius of the test
SAMPLES, BETA, RADII, TESTED = 100, 1e-3, (0.0, 0.05, 0.1), 0.1
GAPS = "gaps.jsonl"  # in a run's folder


def main() -> None:
    """Measure what the subcommand names; print, append the records."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("solvers")
    command.set_defaults(main=solvers)
    command.add_argument("--slow", action="store_true")
    command = commands.add_parser("step")
    command.set_defaults(main=step)
    command.add_argument("size", type=int, nargs=2, metavar=("N", "D"))
    command = commands.add_parser("relu")
    command.set_defaults(main=relu)
    command.add_argument("--seeds", type=int, nargs="+", default=[0])
    command = commands.add_parser("federated")
    command.set_defaults(main=federated)
    command.add_argument("--study", default="convex-skew")
    which = command.add_mutually_exclusive_group(required=True)
    which.add_argument("--runs", type=Path, help="folder of the study's runs; what is complete is taken")
    which.add_argument("--of", type=Path, nargs="+", help="folders of federated or central runs, in place of a study")
    command.add_argument("--seeds", default="", help="comma-separated, in place of the study's")
    command.add_argument("--complete", action="store_true", help="start no run: take those that are complete")
    command.add_argument("--out", type=Path, help="folder for the tables and the figure")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.main(arguments)


def solvers(arguments: argparse.Namespace) -> None:
    """Solve the cases by each solver."""
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
    show("breast cancer, r = 0.5, one thread", columns, [_solver_cells(row) for row in rows])


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


def step(arguments: argparse.Namespace) -> None:
    """One evaluation of objective and gradient against an eigendecomposition and the data passes that it needs."""
    samples, dimension = arguments.size
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


def _solver_cells(row: dict[str, Any]) -> tuple[str, ...]:
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


def relu(arguments: argparse.Namespace) -> None:
    """Solve for each seed of patterns and radius."""
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
    show(f"{SAMPLES} samples of breast cancer, tested at l∞ {TESTED}", columns, [_relu_cells(row) for row in rows])


def _relu_cells(row: dict[str, Any]) -> tuple[str, ...]:
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


class Measured(Federation):
    """A federation that keeps the programme's objective after each round."""

    def __init__(self, cfg: RunConfig) -> None:
        super().__init__(cfg, LocalGrid(cfg, app))
        self.programme, self.rows = programme(cfg), []

    def save(self, checkpoint: Checkpoint) -> Checkpoint:
        objective = self.programme.objective(lifted(checkpoint.last))
        self.rows.append({"round": checkpoint.progress.server_round, "objective": objective})
        return super().save(checkpoint)


def federated(arguments: argparse.Namespace) -> None:
    """Run what is not there yet, compare, draw."""
    if arguments.of:
        for folder in map(RunFolder, arguments.of):
            objective, centre = at_the_end(folder)
            print(f"{folder.path}: gap {100 * (objective - centre.objective) / centre.objective:.2f} %", flush=True)
        return
    study = load_study(arguments.study)
    study = study.with_seeds(arguments.seeds) if arguments.seeds else study
    settings = {"device": "cpu", "workers.threads": 1}
    runs = plan_sweep(study, arguments.runs, settings)
    rows = [row for run in runs if there(run) or not arguments.complete for row in rows_of(run)]
    last = last_rounds(rows)
    results = over_seeds(last)
    record("convex_federated", {key: str(value) for key, value in vars(arguments).items() if key != "main"}, results)
    columns = (
        "skew",
        "local work",
        "rounds",
        "seeds",
        "EMD",
        "gap, %",
        "std",
        "its own gap, %",
        "natural",
        "certified",
        "centralised",
    )
    percent = ("gap", "gap_std", "centralised_gap", "natural", "certified", "centralised_certified")
    show(
        f"{arguments.study}: means over seeds, and the gap's standard deviation",
        columns,
        [
            (
                row["skew"],
                row["work"],
                str(row["round"]),
                str(row["seeds"]),
                f"{row['emd']:.2f}",
                *(f"{100 * row[key]:.2f}" for key in percent),
            )
            for row in results
        ],
    )
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        pd.DataFrame(last).to_csv(arguments.out / "results.csv", index=False, float_format="%.6g")
        draw(rows, arguments.out / "gap.png")


def at_the_end(folder: RunFolder) -> tuple[float, Solution]:
    """The objective of a run's last model, and the centralised solution of its programme."""
    problem = programme(folder.read_config().replace(device="cpu"))
    return problem.objective(lifted(load_model(folder.last)[0])), optimum(problem)


def there(run: PlannedRun) -> bool:
    """Whether the run is complete, and was measured."""
    return run.complete and (run.folder.path / GAPS).exists()


def rows_of(run: PlannedRun) -> list[dict[str, Any]]:
    """A row per round of the run; its folder keeps the objectives."""
    path = run.folder.path / GAPS
    if not there(run):
        shutil.rmtree(run.folder.path, ignore_errors=True)  # one that was broken off begins anew
        federation = Measured(run.cfg)
        federation.run()
        path.write_text("".join(json.dumps(row) + "\n" for row in federation.rows))
    written, centre = run.folder.record(), optimum(programme(run.cfg))
    test = written["last"]
    facts = {
        **run.point,
        "emd": written["emd"]["after"],
        "centralised_objective": centre.objective,
        "centralised_gap": centre.gap,
        "natural": test["natural_accuracy"],
        "certified": test["robust_accuracy.certified"],
        "centralised_certified": certified(run.cfg, centre),
    }
    found = [json.loads(line) for line in path.read_text().splitlines()]
    for row in found:
        row["gap"] = (row["objective"] - centre.objective) / centre.objective
    print(f"{run.label}: gap {100 * found[-1]['gap']:.2f} % after {len(found)} rounds", flush=True)
    return [row | facts for row in found]


@lru_cache(maxsize=1)
def programme(cfg: RunConfig) -> Problem:
    """The programme that the clients of a run solve together: all images that any of them trains on, once."""
    index = np.unique(np.concatenate([client.train for client in split_of(cfg).clients]))
    x, y = as_seen(cfg, run_context(cfg).images("train"), torch.from_numpy(index))
    return Problem(x, y, cfg.attack.epsilon, cfg.local.weight_decay, run_context(cfg).dataset.num_classes)


def as_seen(cfg: RunConfig, images: DeviceImages, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Images as the network sees them, float64 [n, d], and their labels."""
    x, y = images.batch(index)
    return run_context(cfg).model.get_submodule("normalisation")(x.double()).flatten(1), y


SOLVED: dict[tuple[float, float, bytes], Solution] = {}


def optimum(problem: Problem) -> Solution:
    """The centralised solution, once for the same samples in any partition."""
    key = problem.radius, problem.beta, problem.x.numpy().tobytes()
    if key not in SOLVED:
        SOLVED[key] = solve_first_order(problem)
    return SOLVED[key]


def certified(cfg: RunConfig, found: Solution) -> float:
    """Certified accuracy of a solution on the test images."""
    images = run_context(cfg).images("test")
    x, y = as_seen(cfg, images, torch.arange(len(images)))
    return accuracy(l2_margins(found.lifted, x, y, cfg.attack.epsilon))


def lifted(arrays: Arrays) -> Lifted:
    """(Z, Z′) as they travel."""
    positive, negative = (torch.from_numpy(np.array(arrays[f"network.{name}"])) for name in ("positive", "negative"))
    return Lifted(positive, negative)


def last_rounds(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The last row of each run."""
    return list({(row["work"], row["skew"], row["seed"]): row for row in rows}.values())


def over_seeds(last: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over seeds, and the standard deviation of the gap."""
    results = []
    for work, skew in pairs_of(last):
        part = [row for row in last if (row["work"], row["skew"]) == (work, skew)]
        numbers = [name for name, value in part[0].items() if isinstance(value, int | float)]
        spread = stdev([row["gap"] for row in part]) if len(part) > 1 else 0.0
        means = {name: fmean(row[name] for row in part) for name in numbers}
        facts = {"skew": skew, "work": work, "seeds": len(part), "gap_std": spread}
        results.append(facts | means | {"round": part[0]["round"]})
    return results


def pairs_of(rows: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """(work, skew) of all runs, in order."""
    return sorted({(row["work"], row["skew"]) for row in rows})


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """The gap against the round, mean over seeds: a colour per skew, dashes per amount of local work."""
    pairs = pairs_of(rows)
    works, skews = (list(dict.fromkeys(column)) for column in zip(*pairs, strict=True))
    names = [f"{skew}, {work}" for work, skew in pairs]
    figure = style.figure(5.6, 3.4, names)
    axes = figure.subplots()
    for name, (work, skew) in zip(names, pairs, strict=True):
        part = [row for row in rows if (row["work"], row["skew"]) == (work, skew)]
        rounds = sorted({row["round"] for row in part})
        means = [100 * fmean(row["gap"] for row in part if row["round"] == number) for number in rounds]
        line = style.LINES[works.index(work)]
        axes.plot(rounds, means, label=name, color=style.colour(skews.index(skew)), linestyle=line)
    axes.set(xscale="log", yscale="log", xlabel="round", ylabel="objective above the centralised one, %")
    style.plain(axes)
    style.legend_below(figure, [axes])
    figure.savefig(path, dpi=style.DPI)


if __name__ == "__main__":
    main()
