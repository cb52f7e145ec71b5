"""What the benchmarks share: fresh processes that start on a signal, records with provenance, a table."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from fedrobust.hardware.memory import tree_memory
from fedrobust.storage.provenance import provenance

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(os.environ.get("BENCHMARK_RESULTS", Path(__file__).with_name("results.jsonl")))
# what a variant decides for itself: never inherited from whoever starts the benchmark
SETTINGS_OF_A_VARIANT = (
    "GLIBC_TUNABLES",
    "LD_PRELOAD",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_TOP_PAD_",
    "MALLOC_TRIM_THRESHOLD_",
    "MKL_NUM_THREADS",
    "OMP_NUM_THREADS",
    "THP_MEM_ALLOC_ENABLE",
)


class Child:
    """`python -m MODULE --job JSON` in a fresh process: it says `ready()`, waits for `go`, ends with `report`."""

    def __init__(self, module: str, job: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> None:
        inherited = {key: value for key, value in os.environ.items() if key not in SETTINGS_OF_A_VARIANT}
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, "--job", json.dumps(dict(job))],
            cwd=ROOT,
            env=inherited | dict(environment or {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._wait_for("ready")

    def go(self) -> None:
        """Start what is measured."""
        assert self.process.stdin
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def result(self) -> dict[str, Any]:
        """What the child reported; it has ended then."""
        report = json.loads(self._wait_for("report "))
        self.process.communicate()
        return report

    def _wait_for(self, start: str) -> str:
        assert self.process.stdout
        for line in self.process.stdout:
            if line.startswith(start):
                return line.removeprefix(start)
        raise RuntimeError(f"{self.process.args} ended with status {self.process.wait()} before it said {start!r}")


def ready() -> None:
    """In a child: set up; wait for the signal to start."""
    print("ready", flush=True)
    sys.stdin.readline()


def report(facts: Mapping[str, Any]) -> None:
    """In a child: its last words."""
    print("report " + json.dumps(dict(facts)), flush=True)


def cpu_seconds() -> float:
    """Processor time of this process so far, all threads, with the children it has waited for."""
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def middle(rows: Sequence[Mapping[str, Any]], key: str) -> float:
    """Median over repeats."""
    return median(row[key] for row in rows)


def spread(rows: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    """Least and greatest over repeats."""
    values = [row[key] for row in rows]
    return [min(values), max(values)]


def record(benchmark: str, settings: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> None:
    """Append one line per result to results.jsonl, each with commit, command, hardware and versions."""
    module = Path(sys.argv[0]).stem  # one may have several benchmarks
    origin = provenance() | {"command": f"python -m benchmarks.{module} {' '.join(sys.argv[1:])}".strip()}
    with open(RESULTS, "a", encoding="utf-8") as file:
        for result in results:
            file.write(json.dumps({"benchmark": benchmark, **result, "settings": dict(settings), **origin}) + "\n")


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on standard output; numbers to the right of the first column."""
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    Console(width=140 if not sys.stdout.isatty() else None).print(table)


class PeakOfTree:
    """Samples the memory of a process and its descendants while the block runs; `peak` is in bytes.

    From another process, so that no lock of the measured one is taken; `fedrobust.hardware.memory` says what counts.
    """

    def __init__(self, pid: int, interval: float = 0.5) -> None:
        self.peak = 0
        self._pid, self._interval = pid, interval
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakOfTree:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(self._interval):
            with suppress(psutil.Error):  # the process, or one of its descendants, has just ended
                self.peak = max(self.peak, tree_memory(self._pid))
