"""What a round costs besides training: our engines against Flower's own simulation engine.

The clients train nothing: they load the weights of a ResNet-18 (11.2 million parameters, 45 MB) into the model
and send them back (benchmarks/echo_app.py). `local` and `ray` run the project's FedAvg, with its seeded sampling,
its guard and its ordered sum in float64; `flower` is flwr.simulation.run_simulation with flwr's FedAvg as it
comes. Same ClientApp, same Flower round loop (`strategy.start`), two workers of one thread (`local`: one process),
no evaluation. Each run is a fresh process.

A round's seconds go from its start to the aggregated model, with the processor time of the whole process tree
beside them; shown is the median of rounds 2 and later. Memory is the greatest proportional set size of the tree
(driver, workers, Ray's own processes), sampled twice a second: pages that processes share, Ray's object store
among them, count once; "idle" is the tree before round 1, its model loaded.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from itertools import pairwise
from statistics import median
from time import perf_counter
from typing import Any

import psutil

from benchmarks.harness import Child, PeakOfTree, middle, ready, record, report, show, spread

ENGINES = ("flower", "local", "ray")
MODEL_BYTES = 45_000_000
CLIENT_APP = "benchmarks.echo_app:app"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine_overhead", description=__doc__)
    parser.add_argument("--clients", type=int, nargs="+", default=[10, 100], help="clients a round; up to 1,000")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=1, help="times each engine runs, in turn")
    parser.add_argument("--workers", type=int, default=2, help="for ray and flower")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        return _child(**json.loads(arguments.job))
    for clients in arguments.clients:
        _compare(clients, arguments)
    return None


def _compare(clients: int, arguments: argparse.Namespace) -> None:
    rows: dict[str, list[dict[str, Any]]] = {engine: [] for engine in arguments.engines if _fits(engine, clients)}
    for _ in range(arguments.repeats):
        for engine in rows:
            row = _measure(engine, clients, arguments.rounds, arguments.workers)
            rows[engine].append(row)
            print(f"{clients} clients, {engine}: {row['seconds']:.2f} s a round, {row['peak_gib']:.2f} GiB", flush=True)
    keys = ("seconds", "cpu_seconds", "peak_gib", "idle_gib")
    results: list[dict[str, Any]] = []
    for engine, measured in rows.items():
        result: dict[str, Any] = {"engine": engine, "clients": clients}
        result |= {key: round(middle(measured, key), 4) for key in keys}
        result |= {f"{key}_range": spread(measured, key) for key in ("seconds", "peak_gib")}
        if "flower" in rows:
            result |= {f"{key}_of_flower": result[key] / middle(rows["flower"], key) for key in keys[:3]}
        results.append(result)
    record("engine_overhead", {key: getattr(arguments, key) for key in ("rounds", "repeats", "workers")}, results)
    show(
        f"{clients} clients that train nothing, 45 MB, per round (median of rounds 2 to {arguments.rounds})",
        ("engine", "seconds", "of flower's", "CPU seconds", "of flower's", "peak GiB", "of flower's", "idle GiB"),
        [
            (
                result["engine"],
                f"{result['seconds']:.2f}",
                f"{result.get('seconds_of_flower', float('nan')):.2f}",
                f"{result['cpu_seconds']:.2f}",
                f"{result.get('cpu_seconds_of_flower', float('nan')):.2f}",
                f"{result['peak_gib']:.2f}",
                f"{result.get('peak_gib_of_flower', float('nan')):.2f}",
                f"{result['idle_gib']:.2f}",
            )
            for result in results
        ],
    )


def _fits(engine: str, clients: int) -> bool:
    """Flower's FedAvg holds the replies of two rounds: skipped where that is more than the machine has."""
    needed = 2.5 * clients * MODEL_BYTES
    if engine == "flower" and needed > psutil.virtual_memory().available:
        print(f"{clients} clients, flower: left out, wants about {needed / 2**30:.0f} GiB of memory", flush=True)
        return False
    return True


def _measure(engine: str, clients: int, rounds: int, workers: int) -> dict[str, Any]:
    job = {"engine": engine, "clients": clients, "rounds": rounds, "workers": workers}
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"} if engine == "flower" else {}
    child = Child("benchmarks.engine_overhead", job, threads | {"FLWR_TELEMETRY_ENABLED": "0"})
    with PeakOfTree(child.process.pid) as memory:
        child.go()
        result = child.result()
    ends, cpu = result["ends"], result["cpu"]
    return {
        "seconds": median(b - a for a, b in pairwise(ends[1:])),
        "cpu_seconds": median(b - a for a, b in pairwise(cpu[1:])),
        "peak_gib": memory.peak / 2**30,
        "idle_gib": result["idle_gib"],
    }


class Clock:
    """Flower's `evaluate_fn`, which is called before round 1 and after each: looks at the clock, evaluates nothing."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.cpu: list[float] = []
        self.idle = 0

    def __call__(self, server_round: int, arrays: Any) -> None:
        from fedrobust.hardware.memory import tree_memory

        self.idle = self.idle or tree_memory()
        self.ends.append(perf_counter())
        root = psutil.Process(os.getpid())
        times = [process.cpu_times() for process in [root, *root.children(recursive=True)]]
        self.cpu.append(sum(each.user + each.system for each in times))


def _child(engine: str, clients: int, rounds: int, workers: int) -> None:
    import logging

    from flwr.app import ArrayRecord

    from benchmarks.echo_app import build

    logging.getLogger("flwr").setLevel(logging.ERROR)
    clock = Clock()
    arrays = ArrayRecord(build().state_dict())  # type: ignore[arg-type]
    run: Callable[..., None] = _flower if engine == "flower" else _ours
    ready()
    run(engine, clients, rounds, workers, arrays, clock)
    report({"ends": clock.ends, "cpu": clock.cpu, "idle_gib": clock.idle / 2**30})


def _ours(engine: str, clients: int, rounds: int, workers: int, arrays: Any, clock: Clock) -> None:
    """The project's engines and FedAvg, put together as fedrobust.engines and strategies.federation do."""
    from fedrobust.config import RunConfig
    from fedrobust.config.registry import load_path
    from fedrobust.engines import plan_workers
    from fedrobust.hardware.process import keep_freed_memory
    from strategies.fedavg import FedAvg

    settings = {"strategy.fraction-evaluate": 0.0, "device": "cpu", "workers.num": workers, "workers.threads": 1}
    cfg, _ = plan_workers(RunConfig.from_flat({"num-clients": clients, **settings}), engine)
    if engine == "ray":
        from fedrobust.engines.ray_pool import RayGrid

        grid = RayGrid(cfg, CLIENT_APP)
    else:
        from fedrobust.engines.local import LocalGrid

        grid = LocalGrid(cfg, load_path(CLIENT_APP))
    keep_freed_memory()
    try:
        FedAvg(cfg).start(grid, arrays, num_rounds=rounds, evaluate_fn=clock)
    finally:
        grid.close()


def _flower(engine: str, clients: int, rounds: int, workers: int, arrays: Any, clock: Clock) -> None:
    """Flower's simulation engine as its documentation starts it."""
    from flwr.app import Context
    from flwr.serverapp import Grid, ServerApp
    from flwr.serverapp.strategy import FedAvg
    from flwr.simulation import run_simulation

    from benchmarks.echo_app import app

    server = ServerApp()

    @server.main()
    def serve(grid: Grid, context: Context) -> None:
        FedAvg(fraction_evaluate=0.0).start(grid, arrays, num_rounds=rounds, evaluate_fn=clock)

    resources: Any = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}, "init_args": {"num_cpus": workers}}
    run_simulation(server, app, num_supernodes=clients, backend_config=resources)


if __name__ == "__main__":
    main()
