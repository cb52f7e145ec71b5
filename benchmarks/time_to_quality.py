"""How long a preset's central training takes to its quality: seconds of training, natural accuracy, AutoAttack.

    python -m benchmarks.time_to_quality --preset fast-at --natural 0.83 --robust 0.43 --seeds 0 1 2     # a GPU
    python -m benchmarks.time_to_quality --preset central-smoke --natural 0.3 --robust 0.1 --images 100  # a CPU

Needs CIFAR-10. Runs `fedrobust central`, then `fedrobust evaluate` with AutoAttack on so many test images, for each
seed. What counts is the training alone (`seconds_train` of all rounds); the record has the whole run's seconds as well.
Settings of the run are passed on after `--`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import record, show
from fedrobust.storage.run_folder import ROUNDS, RunFolder


def one(arguments: argparse.Namespace, seed: int, folder: Path) -> dict[str, Any]:
    """A run and its evaluation."""
    _fedrobust("central", arguments.preset, "--seed", str(seed), "--run-dir", str(folder), *arguments.settings)
    evaluation = ["--attacks", "autoattack", "--num-images", str(arguments.images), "--no-checks"]
    _fedrobust("evaluate", str(folder), "--which", arguments.which, *evaluation, "--out", str(folder / "evaluation"))
    found = json.loads((folder / "evaluation" / "evaluation.json").read_text())["accuracy"]
    run = RunFolder(folder)
    return {
        "seed": seed,
        "natural": found["natural"]["accuracy"],
        "autoattack": found["autoattack"]["accuracy"],
        "seconds_train": sum(row["seconds_train"] for row in run.read(ROUNDS)),
        "seconds": run.record()["seconds"],
    }


def _fedrobust(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "fedrobust", *arguments], check=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Run every seed; print, record, and say whether the quality was reached."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="fast-at")
    parser.add_argument("--natural", type=float, default=0.83, help="accuracy to reach")
    parser.add_argument("--robust", type=float, default=0.43, help="accuracy under AutoAttack to reach")
    parser.add_argument("--images", type=int, default=1000, help="test images under AutoAttack")
    parser.add_argument("--which", choices=("best", "last"), default="last")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("settings", nargs="*", help="of the run, after --")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        rows = [one(arguments, seed, Path(folder) / str(seed)) for seed in arguments.seeds]
    for row in rows:
        row["reached"] = row["natural"] >= arguments.natural and row["autoattack"] >= arguments.robust
    record("time_to_quality", vars(arguments), [{"variant": arguments.preset, **row} for row in rows])
    show(
        f"{arguments.preset}: {arguments.natural:.0%} natural and {arguments.robust:.0%} under AutoAttack",
        ("seed", "natural", "AutoAttack", "seconds of training", "in all", "reached"),
        [
            (
                str(row["seed"]),
                f"{row['natural']:.1%}",
                f"{row['autoattack']:.1%}",
                f"{row['seconds_train']:.0f}",
                f"{row['seconds']:.0f}",
                "yes" if row["reached"] else "no",
            )
            for row in rows
        ],
    )


if __name__ == "__main__":
    main()
