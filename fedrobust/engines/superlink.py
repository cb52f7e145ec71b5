"""A SuperLink for one run: on a free port, with a FLWR_HOME of its own; when the block ends, nothing of it is left."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sysconfig
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import psutil

from fedrobust.errors import RunFailed

CONNECTION = "this-run"  # how Flower's commands call it, under the environment given to them
START_SECONDS, STOP_SECONDS = 60.0, 5.0

Environment = dict[str, str]


@contextmanager
def superlink(home: Path, log: Path) -> Iterator[Environment]:
    """Start a SuperLink for simulations with FLWR_HOME `home`; yield the environment that makes `flwr` use it.

    Its output and that of all it starts is appended to `log`. However the block ends, its processes end with it.

    Raises:
        RunFailed: it did not start.
    """
    port, environment = _free_port(), flwr_environment(home)
    write_connection(home, f"127.0.0.1:{port}", None)
    command = ["flower-superlink", "--insecure", "--simulation", "--isolation", "subprocess"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--disable-runtime-dependency-installation"]
    with open(log, "ab") as output:
        # `home` as working directory: in a checkout's, Ray's workers would import from there, not from the bundle.
        # A session of its own: Ctrl-C is for this process, which then ends the others in order.
        process = subprocess.Popen(
            command,
            cwd=home,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait_until_ready(process, port, log)
        yield environment
    finally:
        with _undisturbed():
            end_processes(home)
            process.wait()


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Ignore further signals in the block, so that the shutdown is complete."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {name: signal.signal(name, signal.SIG_IGN) for name in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


def end_processes(home: Path) -> None:
    """End all processes that were started with this FLWR_HOME: first by SIGTERM, then by SIGKILL."""
    left = _started(home)
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    _, left = psutil.wait_procs(left, timeout=STOP_SECONDS)
    # again and again: what was ended may have started something in between
    while left := [process for process in {*left, *_started(home)} if _is_alive(process)]:
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=1)


def _started(home: Path) -> set[psutil.Process]:
    """Return processes with this FLWR_HOME, detached ones too, and their descendants (Ray's workers hide theirs)."""
    found: set[psutil.Process] = set()
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get("FLWR_HOME") == str(home):
                found |= {process, *process.children(recursive=True)}
    return found


def _is_alive(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def write_connection(home: Path, address: str, root_certificates: Path | None) -> None:
    """Write this SuperLink as CONNECTION of FLWR_HOME `home`, with TLS unless there are no root certificates."""
    tls = "insecure = true" if root_certificates is None else f'root-certificates = "{root_certificates.absolute()}"'
    config = f'[superlink]\ndefault = "{CONNECTION}"\n\n[superlink.{CONNECTION}]\naddress = "{address}"\n{tls}\n'
    (home / "config.toml").write_text(config, encoding="utf-8")


def flwr_environment(home: Path, address: str = "127.0.0.1") -> Environment:
    """Return the environment for Flower's commands and, through them, the apps."""
    environment = {
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # as under the ray engine
        "RAY_USAGE_STATS_ENABLED": "0",
        **os.environ,
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "RAY_ADDRESS": "local",  # a cluster of its own, also where another one runs
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # which is of this host alone: Ray then listens on the loopback
        # Flower finds its commands by PATH, on which an environment that is not activated does not lie
        "PATH": os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)]),
    }
    for name in ("FEDROBUST_DATA", "FEDROBUST_CACHE"):
        if environment.get(name):
            environment[name] = str(Path(environment[name]).expanduser().absolute())
    for name in ("no_proxy", "NO_PROXY"):  # what Flower says to itself goes through no proxy
        environment[name] = ",".join(filter(None, [environment.get(name), address.split(":")[0]]))
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        environment.pop(name, None)  # where unset, Ray gives a worker as many threads as it has CPUs
    return environment


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_until_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(OSError, HTTPException), closing(HTTPConnection("127.0.0.1", port, timeout=1)) as connection:
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return
        time.sleep(0.2)
    how = f"did not answer within {START_SECONDS:.0f} s" if process.poll() is None else "ended at once"
    raise RunFailed(f"Flower's SuperLink {how}; see {log}")
