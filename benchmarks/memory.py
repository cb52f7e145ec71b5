"""Does memory grow with the clients that run at once, or with how many there are? Is the data set there once?

Whole federations as `fedrobust run` has them, on CIFAR-10 with calfat-cnn under the ray engine with two workers:
one round, every client one step of 32 images (PGD-1), a small evaluation at the end. Only the number of clients
differs. `peak` is the greatest proportional set size (PSS) of the process tree: driver, workers, Ray's own
processes; shared pages count once. For the data set, /proc/PID/smaps of every process that maps the cached
training images: the sum of their resident sizes (RSS) against the sum of their shares (PSS), which is what the
machine holds. The cache is one of its own, so that no other process shares its pages.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import psutil

from benchmarks.harness import Child, PeakOfTree, ready, record, report, show

CACHED = "train_images.npy"
MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("--clients", type=int, nargs="+", default=[5, 50, 500])
    parser.add_argument("--workers", type=int, nargs="+", default=[2], help="clients at once; several to compare")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        return _child(**json.loads(arguments.job))
    results = []
    with tempfile.TemporaryDirectory() as cache:
        os.environ["FEDROBUST_CACHE"] = cache  # inherited by all that is started below
        decode = "from fedrobust.data import load; load('cifar10')"
        subprocess.run([sys.executable, "-c", decode], check=True)
        for workers in arguments.workers:
            for clients in arguments.clients:
                results.append(_measure(clients, workers))
                print(f"{clients} clients, {workers} workers: {results[-1]['peak_mib']} MiB", flush=True)
    record("memory", {"model": "calfat-cnn", "data": "cifar10", "engine": "ray"}, results)
    show(
        "Peak memory of a federation on CIFAR-10, MiB",
        ("clients", "workers", "peak PSS", "data set: mapped by", "sum of RSS", "sum of PSS", "seconds"),
        [
            tuple(
                str(result[key])
                for key in ("clients", "workers", "peak_mib", "mappers", "data_rss_mib", "data_pss_mib", "seconds")
            )
            for result in results
        ],
    )
    return None


class Mapped(NamedTuple):
    """A file in the memory of several processes."""

    processes: int
    rss: int
    pss: int


def mapped(pid: int, name: str) -> Mapped:
    """How the processes below `pid`, itself included, hold the files called `name`; bytes."""
    root = psutil.Process(pid)
    sums = [_sizes(process.pid, name) for process in [root, *root.children(recursive=True)]]
    return Mapped(sum(rss > 0 for rss, _ in sums), sum(rss for rss, _ in sums), sum(pss for _, pss in sums))


def _sizes(pid: int, name: str) -> tuple[int, int]:
    """RSS and PSS of a file in one process, from /proc/PID/smaps."""
    sizes, inside = {"Rss:": 0, "Pss:": 0}, False
    with suppress(OSError), open(f"/proc/{pid}/smaps", encoding="utf-8") as lines:
        for line in lines:
            first, *rest = line.split()
            if not first.endswith(":"):  # the head of a mapping: addresses ... path
                inside = line.rstrip().endswith(name)
            elif inside and first in sizes:
                sizes[first] += int(rest[0]) * 1024
    return sizes["Rss:"], sizes["Pss:"]


def _measure(clients: int, workers: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        job = {"clients": clients, "workers": workers, "folder": f"{folder}/run"}
        child = Child("benchmarks.memory", job)
        most, stop = Mapped(0, 0, 0), threading.Event()

        def watch() -> None:
            nonlocal most
            while not stop.wait(1.0):
                with suppress(psutil.Error):
                    most = max(most, mapped(child.process.pid, CACHED), key=lambda each: each.rss)

        watcher = threading.Thread(target=watch, daemon=True)
        with PeakOfTree(child.process.pid) as memory:
            watcher.start()
            child.go()
            result = child.result()
        stop.set()
        watcher.join()
        lines = (Path(folder) / "run" / "clients.jsonl").read_text().splitlines()
    trained = [row for row in map(json.loads, lines) if row["phase"] == "train" and row["status"] == "ok"]
    if len(trained) != clients:
        raise RuntimeError(f"{len(trained)} of {clients} clients trained")
    return {
        "clients": clients,
        "workers": workers,
        "peak_mib": round(memory.peak / MIB),
        "mappers": most.processes,
        "data_rss_mib": round(most.rss / MIB),
        "data_pss_mib": round(most.pss / MIB),
        "seconds": round(result["seconds"], 1),
    }


def _child(clients: int, workers: int, folder: str) -> None:
    from fedrobust.config import RunConfig
    from fedrobust.engines import plan_workers, run

    settings = {
        "num-clients": clients,
        "num-rounds": 1,
        "device": "cpu",
        "run-dir": folder,
        "data.name": "cifar10",
        "partition.scheme": "iid",
        "model.name": "calfat-cnn",
        "strategy.name": "calfat",
        "attack.steps": 1,
        "attack.random-start": "gaussian",
        "local.steps": 1,
        "local.batch-size": 32,
        "evaluation.attacks": "fgsm",
        "evaluation.select-by": "fgsm",
        "evaluation.validation-images": 100,
        "evaluation.batch-size": 100,
        "strategy.fraction-evaluate": 0.0,
        "data.test-images": 100,
        "workers.num": workers,
        "workers.threads": 1,
    }
    cfg, _ = plan_workers(RunConfig.from_flat(settings), "ray")
    ready()
    start = perf_counter()
    run(cfg, "ray")
    report({"seconds": perf_counter() - start})


if __name__ == "__main__":
    main()
