"""`fedrobust convex`: two-layer networks trained to a proven optimum, and what they guarantee at every radius."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from fedrobust.cli.arguments import count
from fedrobust.cli.paths import shown
from fedrobust.errors import ConfigError, RunFailed
from fedrobust.naming import split_list


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `fedrobust convex`."""
    add = parser.add_argument
    add(
        "samples",
        nargs="?",
        default="breast-cancer",
        help="breast-cancer, a CSV file of numbers, or a data set: see `fedrobust list datasets` [breast-cancer]",
    )
    add("--radii", type=numbers, default=(0.0, 0.5, 1.0, 1.5), metavar="R,...", help="l2, of training [0,0.5,1,1.5]")
    add("--betas", type=numbers, default=(0.01,), metavar="B,...", help="weight of the path norm [0.01]")
    add("--test-radii", type=numbers, default=(0.25, 0.5, 1.0, 1.5, 2.0), metavar="R,...", help="l2, of the test")
    add("--linf-radii", type=numbers, default=(0.1, 0.3), metavar="R,...", help="l∞, of the test [0.1,0.3]")
    add("--seeds", type=numbers, default=(0.0,), metavar="N,...", help="of the split and of random starts [0]")
    add(
        "--solver",
        choices=("first-order", "cutting-set", "sdp", "sdp-scs"),
        default="first-order",
        help="[first-order]",
    )
    add("--initialisations", type=count, default=3, help="of PGD and FGSM training of the same network; 0: none [3]")
    add("--classes", default="", help="of a data set, by name or number, such as cat,dog [all]")
    add("--num-images", type=count, default=2000, help="training images, and test images at most; 0: all [2000]")
    add("--components", type=count, default=0, help="project on so many principal components; 0: none [0]")
    add("--label", default="", help="column of the labels of a CSV file [its last]")
    add("--data-dir", default="", help="folder of a data set in the Hub's parquet layout")
    add("--threads", type=count, default=0, help="CPU threads [all cores]")
    add("--out", type=Path, help="folder for the rows, the table and the figure")


def numbers(text: str) -> tuple[float, ...]:
    """Numbers from 0 on, separated by commas."""
    try:
        values = tuple(float(part) for part in split_list(text))
    except ValueError:
        values = ()
    if not values or not all(0 <= value < float("inf") for value in values):
        raise argparse.ArgumentTypeError(f"must be numbers from 0 on, separated by commas, not {text!r}")
    return values


def main(arguments: argparse.Namespace) -> int:
    """Train, test, print the table; write the files that are asked for."""
    from fedrobust.convex.samples import load_samples
    from fedrobust.convex.study import Plan, run_plan
    from fedrobust.report.convex import summarise, table, write_convex

    if not all(arguments.betas):
        raise ConfigError("--betas: must be above 0")
    if any(seed != int(seed) for seed in arguments.seeds):
        raise ConfigError("--seeds: must be whole numbers")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    plan = Plan(
        radii=arguments.radii,
        betas=arguments.betas,
        test_radii=tuple(filter(None, arguments.test_radii)),
        linf_radii=tuple(filter(None, arguments.linf_radii)),
        solver=arguments.solver,
        initialisations=arguments.initialisations,
    )
    console, rows, unit = Console(soft_wrap=True), [], ""
    for seed in map(int, arguments.seeds):
        samples = load_samples(
            arguments.samples,
            seed=seed,
            classes=arguments.classes,
            images=arguments.num_images,
            label=arguments.label,
            data_dir=arguments.data_dir,
        ).projected(arguments.components)
        unit = samples.unit
        for row in run_plan(plan, samples, seed):
            rows.append(row)
            print_progress(console, row, len(rows), plan.count * len(arguments.seeds))
    summary = summarise(rows)
    head, body = table(summary, brief=True)
    title = f"{arguments.samples}: certified accuracy on test samples in percent"
    printed = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0))
    for name in head:
        printed.add_column(name, no_wrap=True)
    for cells in body:
        printed.add_row(*cells)
    console.print(printed, highlight=False)
    console.print(
        f"r: l2 radius of training; unit of radii: {unit}; gap: to the certified lower bound on the optimum; "
        "--out has PGD's accuracies beside them, the spread over seeds, seconds, neurons, and a figure",
        highlight=False,
    )
    if arguments.out:
        try:
            write_convex(arguments.out, rows, summary, arguments.samples, unit)
        except OSError as error:
            raise RunFailed(f"--out {arguments.out}: cannot be written ({error.strerror or error})") from error
        console.print(str(shown(arguments.out)), highlight=False)
    return 0


def print_progress(console: Console, row: dict, done: int, total: int) -> None:
    """A line per network."""
    facts = {key: row[key] for key in ("method", "seed", "radius", "beta")}
    text = " ".join(f"{key} {value}" for key, value in facts.items())
    console.print(f"{done}/{total} {text}: objective {row['objective']:.5f}  {row['seconds']:.1f} s", highlight=False)
