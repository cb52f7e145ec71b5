"""`fedrobust report`: a table and the learning curves of any runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from fedrobust.errors import RunFailed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `fedrobust report`."""
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="FOLDER", help="a run's folder, or one with runs below it"
    )
    parser.add_argument("--out", type=Path, help="write results.md, results.csv and curves.png into this folder")


def main(arguments: argparse.Namespace) -> int:
    """Print the table; write the files that are asked for."""
    import pandas as pd

    from fedrobust.report.curves import draw_curves
    from fedrobust.report.runs import find_runs, markdown, result_rows

    runs = find_runs(arguments.runs)
    rows = result_rows(runs)
    print(markdown(rows), end="")
    if arguments.out:
        try:
            arguments.out.mkdir(parents=True, exist_ok=True)
            (arguments.out / "results.md").write_text(markdown(rows))
            pd.DataFrame(rows).to_csv(arguments.out / "results.csv", index=False)
            draw_curves(runs, arguments.out / "curves.png")
        except OSError as error:
            raise RunFailed(f"--out {arguments.out}: cannot be written ({error.strerror})") from error
        print(f"wrote results.md, results.csv and curves.png in {arguments.out}")
    return 0
