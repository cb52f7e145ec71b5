"""`fedrobust report`: summarise runs over their seeds: a table, and a folder with figures and a page."""

from __future__ import annotations

import argparse
from pathlib import Path

from fedrobust.cli.arguments import share
from fedrobust.cli.console import shown
from fedrobust.storage.files import writing


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `fedrobust report`."""
    add = parser.add_argument
    add("runs", nargs="+", type=Path, metavar="FOLDER", help="a run's folder, or one with runs below it")
    add("--out", type=Path, help="write tables, figures and report.html into this folder")
    add(
        "--target-robust",
        type=share,
        metavar="SHARE",
        help="count the rounds to this robust accuracy, such as 0.2",
    )


def main(arguments: argparse.Namespace) -> int:
    """Print the table; write the requested files."""
    from fedrobust.reports.results import Overview
    from fedrobust.reports.tables import summary_markdown

    overview = Overview.of(arguments.runs, arguments.target_robust)
    print(summary_markdown(overview.compact(overview.summary), overview.runs), end="")
    if arguments.out:
        from fedrobust.reports.page import write_report

        with writing(f"--out {arguments.out}"):
            page = write_report(overview, arguments.out)
        print(f"wrote {shown(page)}, and its tables and figures beside it")
    return 0
