"""`fedrobust convex`: two-layer networks trained to a proven optimum, and their certificates at every radius."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from fedrobust.config.names import split_list
from fedrobust.errors import ConfigError

if TYPE_CHECKING:  # help is there before PyTorch is
    import torch


from pathlib import Path

from rich.table import Table

from fedrobust.cli.arguments import count, counts, device, numbers, positive
from fedrobust.cli.console import new_console, shown
from fedrobust.storage.files import writing

ACTIVATIONS = ("polynomial", "relu")
# settings that samples and runs take, with their defaults
OF_SAMPLES: dict[str, Any] = {
    "activation": "polynomial",
    "radii": (0.0, 0.5, 1.0, 1.5),
    "norm": "l2",
    "loss": "hinge",
    "betas": (0.01,),
    "test_radii": (0.25, 0.5, 1.0, 1.5, 2.0),
    "linf_radii": (0.1, 0.3),
    "solver": "first-order",
    "patterns": 20,
    "initialisations": 3,
    "classes": "",
    "num_images": 2000,
    "components": 0,
    "label": "",
}
OF_A_RUN: dict[str, Any] = {
    "activation": "",
    "radii": (0.0, 1.0, 2.0),
    "betas": (0.01,),
    "test_radii": (0.5, 1.0, 2.0),
    "patterns": 20,
    "num_images": 2000,
    "components": 0,
    "test_images": 1000,
    "attacks": "fgsm,pgd-20",
    "which": "best",
}


@dataclass(frozen=True)
class Job:
    """A study to carry out: its rows as they are computed, their number `count`, how to print and how to write them."""

    count: int
    rows: Iterator[dict[str, Any]]
    title: str
    legend: str
    write: Callable[..., None]


def settings(arguments: argparse.Namespace, of_a_run: bool) -> dict[str, Any]:
    """Return the given settings over the defaults. Raise ConfigError for a setting that these networks do not take."""
    from fedrobust.data import DATASETS

    takes, other = (OF_A_RUN, OF_SAMPLES) if of_a_run else (OF_SAMPLES, OF_A_RUN)
    given = {key: value for key in {**takes, **other} if (value := getattr(arguments, key)) is not None}
    refused = dict.fromkeys(
        set(other) - set(takes), "a run's folder" if of_a_run else f"{arguments.source}, only for runs"
    )
    if not of_a_run:
        if arguments.source not in DATASETS:
            refused |= dict.fromkeys(("classes", "num_images"), f"{arguments.source}, only for data sets of images")
        if not arguments.source.endswith(".csv"):
            refused["label"] = f"{arguments.source}, only for CSV files"
    for key in given:
        if key in refused:
            raise ConfigError(f"--{key.replace('_', '-')}: not for {refused[key]}")
    return takes | given


def networks(arguments: argparse.Namespace, chosen: dict[str, Any]) -> Job:
    """Return the job that trains networks on samples."""
    from fedrobust.convex_study.radii import FIRST_ORDER, Plan, run_plan
    from fedrobust.convex_study.samples import load_samples
    from fedrobust.reports.convex import NORMS, write_convex

    of_data = {
        "classes": chosen.pop("classes"),
        "images": chosen.pop("num_images"),
        "label": chosen.pop("label"),
        "data_dir": arguments.data_dir,
    }
    components = chosen.pop("components")
    if components:
        if any(arguments.linf_radii or ()) or chosen["norm"] == "linf":
            raise ConfigError(
                "--components: a projection does not preserve l∞ balls; leave out --linf-radii and --norm linf"
            )
        chosen["linf_radii"] = ()
    chosen["linf_radii"] = tuple(filter(None, chosen["linf_radii"]))
    plan = Plan(**chosen)
    device = double_device(arguments.device if plan.solver == FIRST_ORDER else "cpu")
    loaded = [load_samples(arguments.source, seed=seed, **of_data).projected(components) for seed in arguments.seeds]
    unit = loaded[0].unit
    pairs = zip(arguments.seeds, loaded, strict=True)
    return Job(
        plan.count * len(loaded),
        (row for seed, samples in pairs for row in run_plan(plan, samples.to(device), seed)),
        f"{arguments.source}: certified accuracy on test samples in percent",
        f"r: {NORMS[plan.norm]} radius of training; unit of radii: {unit}; gap: to the certified lower bound on the "
        f"optimum{' over the sampled patterns' if plan.activation == 'relu' else ''}, – if there is none; --out has "
        "PGD's accuracies beside them, the spread over seeds, seconds, neurons, and a figure",
        partial(write_convex, unit=unit, norm=plan.norm),
    )


def heads(arguments: argparse.Namespace, chosen: dict[str, Any]) -> Job:
    """Return the job that trains heads on a run's features."""
    from fedrobust.convex_study.head_study import HeadPlan, run_heads
    from fedrobust.evaluation.evaluated_model import load_evaluated_model
    from fedrobust.reports.convex import UNIT, write_heads

    evaluated = load_evaluated_model(arguments.source, which=chosen.pop("which"), data_dir=arguments.data_dir)
    activation = chosen.pop("activation")
    attacks = tuple(dict.fromkeys(split_list(chosen.pop("attacks"))))
    plan = HeadPlan(activations=(activation,) if activation else ACTIVATIONS, attacks=attacks, **chosen)
    device = double_device(arguments.device)
    return Job(
        plan.count * len(arguments.seeds),
        (row for seed in arguments.seeds for row in run_heads(plan, evaluated, seed, device)),
        f"{arguments.source}: accuracy of the whole network on {plan.test_images or 'all'} test images in percent",
        f"r: l2 radius of training in feature space; features: certified there, not in pixels; unit of both: {UNIT}; "
        "gap: to the certified lower bound on the optimum, – if there is none; --out has the spread over seeds, "
        "seconds, neurons, and a figure",
        write_heads,
    )


def double_device(name: str) -> torch.device:
    """Return the device of this name; "auto" takes CUDA or the CPU. Raise ConfigError for one without float64."""
    from fedrobust.hardware.process import pick_device

    device = pick_device(name)
    if device.type != "mps":
        return device
    if name == "auto":
        return pick_device("cpu")
    raise ConfigError(f"--device {name}: has no float64; use cpu or cuda")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `fedrobust convex`."""
    add = parser.add_argument
    add(
        "source",
        nargs="?",
        default="breast-cancer",
        help="breast-cancer, a CSV file of numbers, a data set (`fedrobust list datasets`), or a run's folder, whose "
        "last layer is retrained [breast-cancer]",
    )
    add("--activation", choices=ACTIVATIONS, help="activation of the networks [polynomial; for a run both]")
    add("--radii", type=numbers, metavar="R,...", help="radii of training, at least 0 [0,0.5,1,1.5; for a run 0,1,2]")
    add("--norm", choices=("l2", "linf"), help="norm of the training radii; linf only for ReLU [l2]")
    add(
        "--loss",
        choices=("hinge", "squared", "logistic"),
        help="loss of training; squared only for ReLU [hinge; for a run logistic]",
    )
    add("--betas", type=numbers, metavar="B,...", help="weights of the path norm, above 0 [0.01]")
    add(
        "--test-radii", type=numbers, metavar="R,...", help="l2 radii of the test [0.25,0.5,1,1.5,2; for a run 0.5,1,2]"
    )
    add("--linf-radii", type=numbers, metavar="R,...", help="l∞ radii of the test [0.1,0.3]")
    add("--seeds", type=counts, default=(0,), metavar="N,...", help="seeds of the split and of random starts [0]")
    add(
        "--solver",
        metavar="S",
        help="solver: first-order, cutting-set, sdp or sdp-scs; for ReLU first-order or socp [first-order]",
    )
    add("--patterns", type=positive, metavar="N", help="number of sampled activation patterns of ReLU networks [20]")
    add(
        "--initialisations",
        type=count,
        metavar="N",
        help="number of initialisations of PGD and FGSM training, the baselines; 0: no baselines [3]",
    )
    add("--classes", metavar="A,B", help="classes of a data set to keep, by name or number, such as cat,dog [all]")
    add(
        "--num-images",
        type=count,
        metavar="N",
        help="number of training images, and of a data set's test images at most; 0: all [2000]",
    )
    add(
        "--components",
        type=count,
        metavar="N",
        help="number of principal components to project on; for a run besides its own rows [0]",
    )
    add("--label", metavar="NAME", help="column of a CSV file with the labels [its last]")
    add("--test-images", type=count, metavar="N", help="number of test images for a run; 0: all [1000]")
    add(
        "--attacks",
        metavar="A,...",
        help="attacks on a run's images, separated by commas: see `fedrobust list suite` [fgsm,pgd-20]",
    )
    add("--which", choices=("best", "last"), help="best or last model of a run [best]")
    add("--data-dir", default="", help="folder of a data set in the Hub's parquet layout")
    add(
        "--device",
        type=device,
        default="auto",
        metavar="D",
        help="device of first-order solvers: auto, cpu, cuda, cuda:N [auto]",
    )
    add("--threads", type=count, default=0, metavar="N", help="CPU threads [all cores]")
    add("--out", type=Path, help="folder for the rows, the table and the figure")


def main(arguments: argparse.Namespace) -> int:
    """Train, test, print the table; write the requested files."""
    import torch

    from fedrobust.reports.convex import summarise, table
    from fedrobust.storage.provenance import provenance
    from fedrobust.storage.run_folder import folder_of_run

    origin = provenance()
    path = Path(arguments.source)
    if path.is_file() and path.suffix != ".csv":
        arguments.source = str(shown(folder_of_run(path)))
    of_a_run = Path(arguments.source).is_dir()
    chosen = settings(arguments, of_a_run)
    if not all(chosen["betas"]):
        raise ConfigError("--betas: must be above 0")
    chosen["test_radii"] = tuple(filter(None, chosen["test_radii"]))
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.out:
        with writing(f"--out {arguments.out}"):  # now, not after what may take hours
            arguments.out.mkdir(parents=True, exist_ok=True)
    job = (heads if of_a_run else networks)(arguments, chosen)
    console, rows = new_console(), []
    for row in job.rows:
        rows.append(row)
        console.print(f"{len(rows)}/{job.count} {progress(row)}")
    summary = summarise(rows)
    head, body = table(summary, brief=True)
    printed = Table(title=job.title, title_justify="left", box=None, padding=(0, 1, 0, 0))
    for name in head:
        printed.add_column(name, no_wrap=True)
    for cells in body:
        printed.add_row(*cells)
    console.print(printed)
    console.print(job.legend)
    if arguments.out:
        with writing(f"--out {arguments.out}"):
            job.write(arguments.out, rows, summary, arguments.source, origin)
        console.print(str(shown(arguments.out)))
    return 0


def progress(row: dict[str, Any]) -> str:
    """Return a line on one network."""
    facts = " ".join(f"{key} {row[key]}" for key in ("method", "seed", "radius", "beta") if row[key] is not None)
    if "objective" not in row:
        return f"{facts}: {row['seconds']:.1f} s"
    return f"{facts}: objective {row['objective']:.5f}  {row['status']}  {row['seconds']:.1f} s"
