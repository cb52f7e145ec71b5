"""`fedrobust partition`: show which client would hold which labels, before anything is trained."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console
from rich.table import Table

from fedrobust.cli.arguments import add_settings, complete, given_settings
from fedrobust.cli.console import new_console
from fedrobust.config import RunConfig
from fedrobust.errors import ConfigError
from fedrobust.reports import labels
from fedrobust.storage.files import writing
from partitions import PartitionSummary

SHOWN_CLIENTS = 20
FORMATS = (".png", ".pdf", ".svg")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `fedrobust partition`."""
    parser.usage = "fedrobust partition [PRESET] [--figure FILE] [--csv FILE] [--SETTING VALUE ...]"
    parser.add_argument("preset", nargs="?", default="", help="preset with the settings to start from [the defaults]")
    parser.add_argument("--figure", type=Path, help=f"draw a figure: a file ending in {', '.join(FORMATS)}")
    parser.add_argument("--style", choices=("bars", "bubbles"), default="bars", help="style of the figure")
    parser.add_argument("--csv", type=Path, help="write the table, one row per client")
    add_settings(parser)


def main(arguments: argparse.Namespace) -> int:
    """Print the table; write the requested files."""
    from fedrobust.data import load_data
    from fedrobust.data.split import split_of, summarise_split
    from fedrobust.running.preflight import check_names

    if arguments.figure and arguments.figure.suffix not in FORMATS:
        raise ConfigError(f"--figure {arguments.figure}: must end in {', '.join(FORMATS)}")
    cfg = complete(arguments.preset, given_settings(arguments))
    check_names(cfg)
    dataset = load_data(cfg.data)
    summary = summarise_split(dataset, split_of(cfg))
    console = new_console()
    _print(console, cfg, summary, dataset.class_names)
    if arguments.csv:
        import pandas as pd

        with writing(f"--csv {arguments.csv}"):
            pd.DataFrame(summary.rows()).to_csv(arguments.csv, index=False)
        console.print(f"wrote {arguments.csv}")
    if arguments.figure:
        from fedrobust.reports.partitions import draw_partition

        with writing(f"--figure {arguments.figure}"):
            draw_partition(
                summary.class_counts,
                summary.emd,
                dataset.class_names,
                arguments.figure,
                style=arguments.style,
                title=labels.partition(cfg),
            )
        console.print(f"wrote {arguments.figure}")
    return 0


def _print(console: Console, cfg: RunConfig, summary: PartitionSummary, class_names: tuple[str, ...]) -> None:
    rows = summary.rows()
    per_class = len(class_names) <= 10
    table = Table(title=labels.partition(cfg), title_justify="left", box=None, padding=(0, 0, 0, 1))
    for heading in ("client", "images", "pool", "EMD", *(range(len(class_names)) if per_class else ["classes"])):
        table.add_column(str(heading), justify="right", no_wrap=True)
    for row in rows[:SHOWN_CLIENTS]:
        counts = [row[f"class_{c}"] for c in range(len(class_names))] if per_class else [row["classes"]]
        shared = f"{row['emd_before']:.2f}→" if summary.pool_size else ""
        cells = [row["client"], row["samples"], row["pool_samples"], f"{shared}{row['emd']:.2f}"]
        table.add_row(*map(str, cells), *map(str, counts))
    console.print(table)
    lines = []
    if len(rows) > SHOWN_CLIENTS:
        lines.append(f"... and {len(rows) - SHOWN_CLIENTS} more clients; --csv FILE has them all")
    if per_class:
        lines.append("classes: " + ", ".join(f"{number} {name}" for number, name in enumerate(class_names)))
    lines.append(
        f"images per client {summary.sizes.min()} to {summary.sizes.max()}; EMD {summary.emd_before.mean():.2f} "
        f"before sharing, {summary.mean_emd:.2f} after (largest {summary.max_emd:.2f})"
    )
    if summary.pool_size:
        lines.append(
            f"pool: {summary.pool_size} raw images that every client sees; {summary.bytes_moved / 2**20:.1f} MiB "
            f"moved, overlap {summary.overlap:.0%}"
        )
    for line in lines:
        console.print(line)
