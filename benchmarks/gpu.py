"""Measurements for a GPU, most valuable first, within some minutes; a second call continues where the first stopped.

    python -m benchmarks.gpu --minutes 9 --out DIR
    python -m benchmarks.gpu --minutes 2 --out DIR --only tests steps
    python -m benchmarks.gpu --minutes 9 --out DIR --device cpu --tiny        # a rehearsal of every command

Each entry is one or several commands, those run side by side. An entry is not begun without time left; one that
outlasts the minutes ends by SIGTERM, so that its run can be resumed. DIR/entries.jsonl has a line for each entry that
ran: exit status, seconds, and the seconds that the FLOPs of its training would take at 30 % of 650 TFLOP/s. Logs, runs
and evaluations lie beside it, records of benchmarks in DIR/results.jsonl. No network; Ray only in the last entry.
CIFAR-10 as everywhere (`FEDROBUST_DATA`).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

from benchmarks.harness import ROOT
from fedrobust.config import RunConfig
from fedrobust.presets import load_preset
from fedrobust.studies.plan import training_flops, training_images

SUSTAINED = 0.3 * 650e12  # FLOP/s
SPARE = 15.0  # seconds, for a run to end after SIGTERM: a GPU first does what is queued
WORTH = 15.0  # seconds below which nothing is begun
BOTH = ["cifar10-calfat", "cifar10-fedavg"]
TINY = {
    "num-rounds": 1,
    "data.train-images": 2000,
    "data.test-images": 60,
    "local.steps": 1,
    "local.batch-size": 8,
    "evaluation.batch-size": 16,
}
CUDA_TESTS = [
    "tests/test_training.py",
    "tests/core/test_folded.py",
    "tests/data/test_data_tensors.py",
    "tests/deployment/test_faults.py",
]


@dataclass(frozen=True)
class Entry:
    """Commands to run side by side, `python -m` left out, and the run configs whose training is in them."""

    name: str
    commands: list[list[str]]
    trained: list[RunConfig] = field(default_factory=list)

    def expected(self) -> float:
        """Return the seconds that the training's FLOPs take at the sustained rate."""
        return sum(training_images(cfg) * training_flops(cfg) for cfg in self.trained) / SUSTAINED


class Plan:
    """The entries, in their order.

    Args:
        tiny: few images, rounds and steps: a rehearsal.
    """

    def __init__(self, out: Path, device: str, *, tiny: bool) -> None:
        self.out, self.device = out, device
        self._settings = {"device": device} | (TINY if tiny else {})
        self._suite = [
            "--attacks",
            "fgsm" if tiny else "fgsm,pgd-20,autoattack",
            "--num-images",
            "4" if tiny else "1000",
        ]
        self._steps = ["--models", "small-cnn", "--batch-sizes", "8", "--batches", "2", "--size", "256"] if tiny else []
        self._convex = ["--seeds", "0", "--radii", "0.5", "--initialisations", "0"] if tiny else []

    def entries(self) -> Iterator[Entry]:
        """Yield every entry."""
        yield Entry(
            "tests",
            [["pytest", "-q", "-rs", "-W", "default", "-p", "no:cacheprovider", "-k", "cuda or gpu", *CUDA_TESTS]],
        )
        # nothing is held out of the published split to choose a round with: its last model is the run's
        published: dict[str, Any] = {"variant": "published", "evaluation.every": 10}
        yield self._runs("published", BOTH, published)
        yield self._evaluations("published-autoattack", BOTH, ("last",))
        yield Entry("steps", [["benchmarks.matrix_rate", "--device", self.device, *self._steps]])
        for percent in (10, 40):
            pool = published | {"pool.fraction": percent / 100, "pool.mode": "add"}
            yield self._runs(f"pool-{percent}", BOTH, pool, suffix=f"-pool-{percent}")
            yield self._evaluations(
                f"pool-{percent}-autoattack", [f"{name}-pool-{percent}" for name in BOTH], ("last",)
            )
        yield self._runs("fast-at", ["fast-at"], {})
        yield self._evaluations("fast-at-autoattack", ["fast-at"], ("best", "last"))
        yield self._runs("central", ["cifar10-at"], {"central.average": "ema"})
        yield self._evaluations("central-autoattack", ["cifar10-at"], ("best", "last"))
        convex = ["--solver", "first-order", "--device", self.device, *self._convex, "--out", str(self.out / "convex")]
        yield Entry("convex", [["fedrobust", "convex", *convex]])
        yield self._runs("ray", ["cifar10-calfat"], published | {"num-rounds": 3}, engine="ray", suffix="-ray")

    def _runs(
        self, entry: str, presets: list[str], settings: dict[str, Any], *, engine: str = "local", suffix: str = ""
    ) -> Entry:
        """Runs side by side, in folders named by preset and suffix; one that has begun is resumed."""
        commands, trained = [], []
        for preset in presets:
            given = settings | self._settings
            variant = str(given.pop("variant", ""))
            (cfg,) = load_preset(preset).configs(given, variant).values()
            trained.append(cfg)
            folder, federated = self.out / (preset + suffix), cfg.kind == "federated"
            flags = [text for key, value in given.items() for text in (f"--{key}", str(value))]
            new = [preset, *(["--variant", variant] if variant else []), *flags, "--run-dir", str(folder)]
            target = ["--resume", str(folder)] if (folder / "config.toml").exists() else new
            how = ["--engine", engine] if federated else []
            commands.append(["fedrobust", "run" if federated else "central", *target, *how])
        return Entry(entry, commands, trained)

    def _evaluations(self, entry: str, names: list[str], models: tuple[str, ...]) -> Entry:
        """Evaluations of these models of each run, side by side."""
        runs = [(str(self.out / name), which) for name in names for which in models]
        device = ["--device", self.device]
        return Entry(
            entry, [["fedrobust", "evaluate", run, "--which", which, *device, *self._suite] for run, which in runs]
        )


def carry_out(entry: Entry, out: Path, seconds: float) -> dict[str, Any]:
    """Run an entry's commands side by side for so many seconds at most; return its line."""
    start, processes = monotonic(), []
    for number, command in enumerate(entry.commands):
        with (out / f"{entry.name}-{number}.log").open("a") as log:
            words = [sys.executable, "-m", *command]
            environment = os.environ | {"BENCHMARK_RESULTS": str(out / "results.jsonl")}
            processes.append(subprocess.Popen(words, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, env=environment))
    timed_out = False
    for process in processes:
        try:
            process.wait(max(seconds - (monotonic() - start), 0))
        except subprocess.TimeoutExpired:
            timed_out = True
            process.send_signal(signal.SIGTERM)
    for process in processes:
        try:
            process.wait(SPARE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    exits = [process.returncode for process in processes]
    line = {"entry": entry.name, "exits": exits, "timed_out": timed_out, "seconds": round(monotonic() - start, 1)}
    return line | {"expected": round(entry.expected(), 1), "commands": [" ".join(words) for words in entry.commands]}


def main() -> None:
    """Carry out the entries that are not done yet, until the minutes are over."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="few images, rounds and steps")
    parser.add_argument("--only", nargs="+", default=[], metavar="ENTRY")
    arguments = parser.parse_args()
    end = monotonic() + 60 * arguments.minutes
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    lines = out / "entries.jsonl"
    before = [json.loads(line) for line in lines.read_text().splitlines()] if lines.exists() else []
    done = {line["entry"] for line in before if not any(line["exits"]) and not line["timed_out"]}
    entries = list(Plan(out, arguments.device, tiny=arguments.tiny).entries())
    if unknown := set(arguments.only) - {entry.name for entry in entries}:
        parser.error(f"--only {' '.join(sorted(unknown))}: choose from {' '.join(entry.name for entry in entries)}")
    for entry in entries:
        if entry.name in done or (arguments.only and entry.name not in arguments.only):
            continue
        if (left := end - monotonic() - SPARE) < WORTH:
            print(f"{entry.name}: no time left", flush=True)
            continue
        line = carry_out(entry, out, left)
        with lines.open("a") as file:
            file.write(json.dumps(line) + "\n")
        state = "stopped by the clock" if line["timed_out"] else f"exit {line['exits']}"
        print(f"{entry.name}: {state}, {line['seconds']} s (training alone by FLOPs {line['expected']} s)", flush=True)


if __name__ == "__main__":
    main()
