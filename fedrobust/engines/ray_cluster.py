"""Ray itself: imported without output, started for this host only or joined, checked for size, and left again."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import psutil

# Read by Ray when it is imported or started: report nothing; keep CUDA_VISIBLE_DEVICES if no GPU is requested;
# give the memory of an object back at once, not within a second (of 45 MB replies a dozen come in that time).
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_free_objects_period_milliseconds", "0")

import ray
from ray._common.utils import get_default_system_temp_dir
from ray._private import services, utils
from ray.exceptions import RayActorError, RayError, WorkerCrashedError
from ray.job_config import JobConfig

from fedrobust.config import RunConfig
from fedrobust.errors import ConfigError, RunFailed

# Ray reaches the engine from here only, after these settings
__all__ = [
    "RayActorError",
    "RayError",
    "WorkerCrashedError",
    "check_ray",
    "check_room",
    "ray",
    "start_ray",
    "stop_ray",
]

ANSWER_SECONDS = 5.0  # for a cluster to say that it is there
GCS_PING = "/ray.rpc.NodeInfoGcsService/GetClusterId"  # what Ray itself asks a cluster first
SOCKETS = "/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"  # below RAY_TMPDIR
SOCKET_LENGTH = 103 if sys.platform == "darwin" else 107  # bytes that the path of a Unix socket may have
OTHERWISE = "--engine local needs no Ray"

_daemons: list[subprocess.Popen[Any]] = []
"""Processes of the cluster that this process has started."""


def check_ray(cfg: RunConfig) -> None:
    """Check that Ray can start, or can join the cluster at `workers.address`.

    Raises:
        ConfigError: a temporary folder that Ray cannot use, or a cluster that does not answer.
    """
    if ray.is_initialized():
        return
    if cfg.workers.address:
        _check_cluster(cfg.workers.address)
    else:
        _check_temporary_folder()


def start_ray(address: str, cpus: int) -> bool:
    """Join the cluster at `address`, or start a private one that only this host can reach; return True if it was
    started.

    Raises:
        RunFailed: Ray does not start.
    """
    if ray.is_initialized():
        return False
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "job_config": _Job()}
    if address:
        options |= {"address": address}
    else:
        options |= {"address": "local", "num_cpus": cpus, "_node_ip_address": "127.0.0.1", "include_dashboard": False}
    try:
        with _on_our_terms(private=not address):
            ray.init(**options)
    except BaseException as error:
        _end_daemons()
        if not isinstance(error, Exception):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RunFailed(f"Ray did not start ({reason}); {OTHERWISE}") from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))  # below Python, Ray has one of its own there
    return True


def stop_ray() -> None:
    """Leave the cluster; end it if it is private.

    If a signal to all processes has already ended one of its daemons, Ray would wait for answers from it.
    """
    if any(daemon.poll() is not None for daemon in _daemons):
        _end_daemons()
    ray.shutdown()
    _daemons.clear()


def _end_daemons() -> None:
    """Kill them and what they have started: Ray's agents, if they are still starting, outlive them by a minute."""
    started: list[psutil.Process] = []
    for daemon in _daemons:
        with suppress(psutil.NoSuchProcess):
            started += psutil.Process(daemon.pid).children(recursive=True)
    for process in (*_daemons, *started):
        with suppress(psutil.NoSuchProcess):
            process.kill()
    for daemon in _daemons:
        daemon.wait()
    _daemons.clear()


class _Job(JobConfig):
    """A job whose workers do not import from the user's current folder, in which files may have the names of our
    packages.
    """

    def _runtime_env_has_working_dir(self) -> bool:
        return True  # only then Ray leaves the current folder off the workers' import path


@contextmanager
def _on_our_terms(*, private: bool) -> Iterator[None]:
    """Start Ray without three of its defaults.

    It replaces 127.0.0.1 by this host's external address, and then listens on all interfaces. It handles SIGTERM itself
    and ends the process at once. It starts its daemons in this process's group, where a signal to the group ends them
    before this process has saved anything.
    """
    with ExitStack() as stack:
        stack.enter_context(_replaced(utils, "set_sigterm_handler", lambda handler: None))
        stack.enter_context(_replaced(services, "ConsolePopen", _start_daemon))
        if private:
            stack.enter_context(_replaced(services, "resolve_ip_for_localhost", lambda host: host))
        yield


def _start_daemon(*arguments: Any, **options: Any) -> subprocess.Popen[Any]:
    """Start one of Ray's processes in a session of its own; the kernel ends it with this process if it can."""
    daemon = subprocess.Popen(*arguments, **options, start_new_session=sys.platform == "linux")
    _daemons.append(daemon)
    return daemon


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _check_temporary_folder() -> None:
    """Raise ConfigError if Ray's sockets and logs cannot lie in its temporary folder."""
    folder = get_default_system_temp_dir()
    name = next((name for name in ("RAY_TMPDIR", "TMPDIR") if os.environ.get(name) == folder), "Ray's folder")
    if len(os.fsencode(os.path.abspath(folder) + SOCKETS)) > SOCKET_LENGTH:
        most = SOCKET_LENGTH - len(SOCKETS)
        raise ConfigError(
            f"{name} = {folder!r}: too long for Ray's sockets, {most} characters are allowed; set RAY_TMPDIR to a "
            f"shorter one; {OTHERWISE}"
        )
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(
            f"{name} = {folder!r}: Ray cannot write there ({error.strerror}); set RAY_TMPDIR to another "
            f"folder; {OTHERWISE}"
        ) from error


def _check_cluster(address: str) -> None:
    """Raise ConfigError if no Ray answers at an address; Ray itself would try for minutes."""
    if address == "auto" or "://" in address or os.environ.get("RAY_USE_TLS", "0") not in ("", "0"):
        return  # found, or answered for, by Ray's own means
    with grpc.insecure_channel(address) as channel:
        ping = channel.unary_unary(GCS_PING)
        try:
            ping(b"", timeout=ANSWER_SECONDS, wait_for_ready=True)
        except grpc.RpcError as error:
            code = error.code().name.lower().replace("_", " ")  # type: ignore[attr-defined]
            raise ConfigError(
                f"workers.address = {address!r}: no Ray cluster answers there ({code}); start it with `ray start "
                f"--head`, whose default port is 6379; {OTHERWISE}"
            ) from None


def check_room(cfg: RunConfig) -> None:
    """Raise ConfigError if the cluster is smaller than the workers: Ray would wait for more without a message."""
    has, workers = ray.cluster_resources(), cfg.workers
    wanted = {"CPU": workers.num * workers.threads, "GPU": workers.num * workers.num_gpus}
    for kind, amount in wanted.items():
        if amount > has.get(kind, 0) + 1e-6:
            raise ConfigError(
                f"workers.num = {workers.num} with {workers.threads} threads and {workers.num_gpus:g} GPUs each: needs "
                f"{amount:g} {kind}s, the Ray cluster has {has.get(kind, 0):g}"
            )
