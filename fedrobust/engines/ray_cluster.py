"""Ray itself: imported quietly, started for this host alone or joined, and large enough."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Read by Ray when it is imported or started: report nothing; leave CUDA_VISIBLE_DEVICES as it is where no GPU is asked;
# give the memory of an object back at once, not within a second (of 45 MB replies a dozen come in that time).
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_free_objects_period_milliseconds", "0")

import ray
from ray._private import services
from ray.exceptions import RayActorError, RayError, WorkerCrashedError

from fedrobust.config import RunConfig
from fedrobust.errors import ConfigError

# Ray reaches the engine from here only, after these settings
__all__ = ["RayActorError", "RayError", "WorkerCrashedError", "check_room", "ray", "start_ray"]


def start_ray(address: str, cpus: int) -> bool:
    """Join the cluster at `address`, or start a private one that only this host can reach; True if it was started."""
    if ray.is_initialized():
        return False
    quiet: dict[str, Any] = {
        "include_dashboard": False,
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        "configure_logging": True,
    }
    handler = signal.getsignal(signal.SIGTERM)
    if address:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    else:
        with _loopback_means_loopback():
            ray.init(address="local", num_cpus=cpus, _node_ip_address="127.0.0.1", **quiet)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)  # Ray puts one of its own there that ends the process on the spot
    return True


@contextmanager
def _loopback_means_loopback() -> Iterator[None]:
    """Ray exchanges 127.0.0.1 for this host's outward address, and listens for all the world where it is that."""
    resolve = services.resolve_ip_for_localhost
    services.resolve_ip_for_localhost = lambda host: host
    try:
        yield
    finally:
        services.resolve_ip_for_localhost = resolve


def check_room(cfg: RunConfig) -> None:
    """Raises ConfigError where the cluster is smaller than the workers: Ray would wait for more without a word."""
    has, workers = ray.cluster_resources(), cfg.workers
    wanted = {"CPU": workers.num * workers.threads, "GPU": workers.num * workers.num_gpus}
    for kind, amount in wanted.items():
        if amount > has.get(kind, 0) + 1e-6:
            raise ConfigError(
                f"workers.num = {workers.num} with {workers.threads} threads and {workers.num_gpus:g} GPUs each: wants "
                f"{amount:g} {kind}s, the Ray cluster has {has.get(kind, 0):g}"
            )
