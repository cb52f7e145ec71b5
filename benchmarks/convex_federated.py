"""What label skew costs, exactly: the runs of a study of polynomial networks against the certified optimum of all data.

    python -m benchmarks.convex_federated --runs sweeps/convex-skew --out experiments/convex/federated
    python -m benchmarks.convex_federated --of runs/convex-digits-20261121-120000 ...

Every run of the study is carried out in this process, as `fedrobust sweep` would with engine local, and the programme's
objective over the union of the clients' training images is taken exactly after each round. The gap is (that objective −
the centralised one) / the centralised one, which is known to be within its own gap of the global optimum. `--of` gives
that gap for the last models of any runs.
"""

from __future__ import annotations

import argparse
import json
import shutil
from functools import lru_cache
from pathlib import Path
from statistics import fmean, stdev
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
from fedrobust.convex.solvers.first_order import solve_first_order
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

GAPS = "gaps.jsonl"  # in a run's folder


class Measured(Federation):
    """A federation that keeps the programme's objective after each round."""

    def __init__(self, cfg: RunConfig) -> None:
        super().__init__(cfg, LocalGrid(cfg, app))
        self.programme, self.rows = programme(cfg), []

    def save(self, checkpoint: Checkpoint) -> Checkpoint:
        objective = self.programme.objective(lifted(checkpoint.last))
        self.rows.append({"round": checkpoint.progress.server_round, "objective": objective})
        return super().save(checkpoint)


def main() -> None:
    """Run what is not there yet, print, append the records, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", default="convex-skew")
    parser.add_argument("--runs", type=Path, help="folder of the study's runs; what is complete is taken")
    parser.add_argument("--of", type=Path, nargs="+", help="folders of federated or central runs, in place of a study")
    parser.add_argument("--seeds", default="", help="comma-separated, in place of the study's")
    parser.add_argument("--complete", action="store_true", help="start no run: take those that are complete")
    parser.add_argument("--out", type=Path, help="folder for the tables and the figure")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.of:
        for folder in map(RunFolder, arguments.of):
            objective, centre = at_the_end(folder)
            print(f"{folder.path}: gap {100 * (objective - centre.objective) / centre.objective:.2f} %", flush=True)
        return
    if not arguments.runs:
        parser.error("--runs or --of is needed")
    study = load_study(arguments.study)
    study = study.with_seeds(arguments.seeds) if arguments.seeds else study
    settings = {"device": "cpu", "workers.threads": 1}
    runs = plan_sweep(study, arguments.runs, settings)
    rows = [row for run in runs if there(run) or not arguments.complete for row in measured(run)]
    last = last_rounds(rows)
    results = over_seeds(last)
    record("convex_federated", {key: str(value) for key, value in vars(arguments).items()}, results)
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


def measured(run: PlannedRun) -> list[dict[str, Any]]:
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
    x, y = samples(cfg, run_context(cfg).images("train"), torch.from_numpy(index))
    return Problem(x, y, cfg.attack.epsilon, cfg.local.weight_decay, run_context(cfg).dataset.num_classes)


def samples(cfg: RunConfig, images: DeviceImages, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
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
    x, y = samples(cfg, images, torch.arange(len(images)))
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
    for work, skew in settings_of(last):
        part = [row for row in last if (row["work"], row["skew"]) == (work, skew)]
        numbers = [name for name, value in part[0].items() if isinstance(value, int | float)]
        spread = stdev([row["gap"] for row in part]) if len(part) > 1 else 0.0
        means = {name: fmean(row[name] for row in part) for name in numbers}
        facts = {"skew": skew, "work": work, "seeds": len(part), "gap_std": spread}
        results.append(facts | means | {"round": part[0]["round"]})
    return results


def settings_of(rows: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """(work, skew) of all runs, in order."""
    return sorted({(row["work"], row["skew"]) for row in rows})


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """The gap against the round, mean over seeds: a colour per skew, dashes per amount of local work."""
    pairs = settings_of(rows)
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
