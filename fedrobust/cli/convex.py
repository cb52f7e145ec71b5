"""`fedrobust convex`: two-layer networks trained to a proven optimum, and what they guarantee at every radius."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rich.table import Table

from fedrobust.cli.arguments import count, counts, device, numbers, positive
from fedrobust.cli.console import new_console
from fedrobust.cli.convex_jobs import ACTIVATIONS, heads, networks, settings
from fedrobust.cli.paths import shown, writing
from fedrobust.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `fedrobust convex`."""
    add = parser.add_argument
    add(
        "subject",
        nargs="?",
        default="breast-cancer",
        help="breast-cancer, a CSV file of numbers, a data set (`fedrobust list datasets`), or a run's folder, whose "
        "last layer is retrained [breast-cancer]",
    )
    add("--activation", choices=ACTIVATIONS, help="[polynomial; of a run both]")
    add("--radii", type=numbers, metavar="R,...", help="of training [0,0.5,1,1.5; of a run 0,1,2]")
    add("--norm", choices=("l2", "linf"), help="of the radii of training; linf for ReLU only [l2]")
    add("--loss", choices=("hinge", "squared", "logistic"), help="squared for ReLU only [hinge; of a run logistic]")
    add("--betas", type=numbers, metavar="B,...", help="weight of the path norm [0.01]")
    add("--test-radii", type=numbers, metavar="R,...", help="l2, of the test [0.25,0.5,1,1.5,2; of a run 0.5,1,2]")
    add("--linf-radii", type=numbers, metavar="R,...", help="l∞, of the test [0.1,0.3]")
    add("--seeds", type=counts, default=(0,), metavar="N,...", help="of the split and of random starts [0]")
    add("--solver", metavar="S", help="first-order, cutting-set, sdp, sdp-scs; ReLU: first-order, socp [first-order]")
    add("--patterns", type=positive, metavar="N", help="sampled activation patterns of ReLU networks [20]")
    add("--initialisations", type=count, metavar="N", help="of PGD and FGSM training of the same network; 0: none [3]")
    add("--classes", metavar="A,B", help="of a data set, by name or number, such as cat,dog [all]")
    add(
        "--num-images",
        type=count,
        metavar="N",
        help="training images; of a data set test images at most, too; 0: all [2000]",
    )
    add(
        "--components",
        type=count,
        metavar="N",
        help="principal components to project on; of a run, beside its own rows [0]",
    )
    add("--label", metavar="NAME", help="column of the labels of a CSV file [its last]")
    add("--test-images", type=count, metavar="N", help="of a run [1000]")
    add(
        "--attacks",
        metavar="A,...",
        help="on a run's images, comma-separated: see `fedrobust list suite` [fgsm,pgd-20]",
    )
    add("--which", choices=("best", "last"), help="of a run's two models [best]")
    add("--data-dir", default="", help="folder of a data set in the Hub's parquet layout")
    add(
        "--device",
        type=device,
        default="auto",
        metavar="D",
        help="of first-order solvers: auto, cpu, cuda, cuda:N [auto]",
    )
    add("--threads", type=count, default=0, metavar="N", help="CPU threads [all cores]")
    add("--out", type=Path, help="folder for the rows, the table and the figure")


def main(arguments: argparse.Namespace) -> int:
    """Train, test, print the table; write the files that are asked for."""
    import torch

    from fedrobust.reports.convex import summarise, table
    from fedrobust.storage.provenance import provenance
    from fedrobust.storage.run_folder import folder_of_run

    origin = provenance()
    subject = Path(arguments.subject)
    if subject.is_file() and subject.suffix != ".csv":
        arguments.subject = str(shown(folder_of_run(subject)))
    of_a_run = Path(arguments.subject).is_dir()
    chosen = settings(arguments, of_a_run)
    if not all(chosen["betas"]):
        raise ConfigError("--betas: must be above 0")
    chosen["test_radii"] = tuple(filter(None, chosen["test_radii"]))
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.out:
        with writing("--out", arguments.out):  # now, not after what may take hours
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
        with writing("--out", arguments.out):
            job.write(arguments.out, rows, summary, arguments.subject, origin)
        console.print(str(shown(arguments.out)))
    return 0


def progress(row: dict[str, Any]) -> str:
    """A line on one network."""
    facts = " ".join(f"{key} {row[key]}" for key in ("method", "seed", "radius", "beta") if row[key] is not None)
    if "objective" not in row:
        return f"{facts}: {row['seconds']:.1f} s"
    return f"{facts}: objective {row['objective']:.5f}  {row['status']}  {row['seconds']:.1f} s"
