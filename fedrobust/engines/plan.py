"""The plan of workers: number of clients at once, threads and GPUs, computed once before a run and recorded with it."""

from __future__ import annotations

import os

from fedrobust.config import RunConfig
from fedrobust.errors import ConfigError
from fedrobust.hardware.cgroup import asked_threads, available_cores, available_memory

BYTES_PER_WORKER = 1 << 30  # a Python process with torch, Flower and a small model, with room to work
WORKERS_PER_GPU = 5


def plan_workers(cfg: RunConfig, engine: str) -> tuple[RunConfig, str]:
    """Return the config with every 0 of `workers` filled in, and one sentence that says why.

    On a CPU: one thread per worker and one worker per core, as far as memory and the number of clients allow (one
    process per core beats one process with all threads); OMP_NUM_THREADS, if it is set, is the number of threads
    instead, if that many cores are left for each. With CUDA: five workers share each GPU unless `workers.num` or
    `.num-gpus` says otherwise.

    Raises:
        ConfigError: a setting asks for more than the machine has.
    """
    workers, cores, gpus = cfg.workers, available_cores(), _num_gpus(cfg)
    memory = max(1, available_memory() // BYTES_PER_WORKER)
    if workers.num_gpus and not gpus:
        raise ConfigError(f"workers.num-gpus = {workers.num_gpus}: no CUDA device here, or device is not cuda")
    if workers.threads > cores:
        raise ConfigError(f"workers.threads = {workers.threads}: this machine has {cores} cores")

    asked = min(asked_threads(), cores)
    limits = {"clients": cfg.num_clients, "cores": cores // max(workers.threads or asked, 1), "memory": memory}
    if gpus:
        limits["GPUs"] = int(gpus / workers.num_gpus) if workers.num_gpus else WORKERS_PER_GPU * gpus
    bound = min(limits, key=lambda name: limits[name])
    num = 1 if engine == "local" else workers.num or max(limits[bound], 1)
    why = "one process" if engine == "local" else "workers.num" if workers.num else f"bounded by the {bound}"
    filled = {
        "workers.num": num,
        "workers.threads": workers.threads or max(1, min(asked or cores, cores // num)),
        "workers.num-gpus": workers.num_gpus or round(gpus / num, 4),
    }
    share = f", {filled['workers.num-gpus']:g} GPU each" if gpus else ""
    sentence = f"{num} client{'s' * (num > 1)} at once with {filled['workers.threads']} CPU threads each{share} ({why})"
    return RunConfig.from_flat(cfg.to_flat() | filled), sentence


def pick_engine(cfg: RunConfig, asked: str) -> tuple[str, str]:
    """Return the engine to use, and why.

    `local` if only one worker fits the machine; else `processes`, or `ray` with GPUs, where the two have not been
    measured against each other, and where processes are not supported.
    """
    if asked != "auto":
        return asked, "asked for"
    planned, _ = plan_workers(cfg, "ray")
    if cfg.workers.address:
        return "ray", "workers.address names a cluster"
    if planned.workers.num == 1:
        return "local", "one worker fits this machine"
    engine = "ray" if planned.workers.num_gpus or not processes_supported() else "processes"
    return engine, f"{planned.workers.num} workers fit this machine"


def processes_supported() -> bool:
    """Return whether this system can fork and share memory by file descriptor, as `processes` does: Linux."""
    return hasattr(os, "memfd_create") and hasattr(os, "fork") and os.path.isdir("/proc/self/fd")


def _num_gpus(cfg: RunConfig) -> int:
    """Return the number of CUDA devices that the clients may share."""
    if cfg.device not in ("auto",) and not cfg.device.startswith("cuda"):
        return 0
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0
