"""The number of a sweep's runs at once on this machine, and the resources of each."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch

from fedrobust.config import RunConfig
from fedrobust.engines import pick_engine
from fedrobust.engines.plan import BYTES_PER_WORKER
from fedrobust.hardware.cgroup import asked_threads, available_cores, available_memory
from fedrobust.studies.sweep import Slots


def plan_slots(configs: Sequence[RunConfig], engine: str, parallel: int) -> tuple[Slots, str]:
    """Return slots for runs with these configs, and why.

    On a CPU: one run per core as far as memory allows, each with one thread under `local`: runs share nothing, so that
    this beats one run with as many workers. With CUDA: one run per GPU, which sees only that one, under the engine that
    a single run would take. On a Ray cluster (`workers.address`): one. `engine` other than "auto" and `parallel` other
    than 0 win.
    """
    if not configs:
        return Slots(1, engine), "nothing to run"
    cfg, cores = configs[0], available_cores()
    if cfg.kind == "central":  # no messages to carry: one process
        engine = "local"
    gpus = _visible_gpus() if cfg.device == "auto" or cfg.device.startswith("cuda") else []
    if cfg.workers.address:
        return Slots(parallel or 1, "ray"), "workers.address names a cluster"
    if gpus:
        at_once = min(parallel or len(gpus), len(configs))
        chosen = pick_engine(cfg, engine)[0]
        return Slots(at_once, chosen, devices=tuple(gpus) if at_once > 1 else ("",)), f"{len(gpus)} GPUs"
    memory = max(1, available_memory() // BYTES_PER_WORKER)
    at_once = min(parallel or min(cores, memory), len(configs))
    if engine == "auto" and at_once == 1 and cores > 1:
        return Slots(1, pick_engine(cfg, engine)[0]), "one run"
    each = max(1, min(asked_threads() or cores, cores // at_once))
    threads = () if cfg.workers.threads else ("--workers.threads", str(each))
    workers = () if cfg.workers.num else ("--workers.num", str(max(1, cores // at_once)))
    if engine in ("auto", "local"):
        return Slots(at_once, "local", threads), f"{cores} cores"
    return Slots(at_once, engine, (*workers, "--workers.threads", "1")), f"{cores} cores"


def _visible_gpus() -> list[str]:
    """Return the CUDA devices of this process, as CUDA_VISIBLE_DEVICES names them."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return named if len(named) == count else [str(number) for number in range(count)]
