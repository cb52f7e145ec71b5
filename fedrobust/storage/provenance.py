"""The source of a number: command, commit, versions, hardware."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import torch

from fedrobust.hardware.cgroup import available_cores

PACKAGES = ("fedrobust", "flwr", "ray", "torch", "torchvision", "numpy", "pandas", "safetensors")
OPTIONAL = ("cvxpy-base", "clarabel", "scs")  # recorded if they are installed


def provenance() -> dict[str, Any]:
    """Return command, start, commit, versions and hardware of this process, for a record."""
    return {
        "command": command_line(),
        "started": now(),
        "commit": commit(),
        "versions": _versions(),
        "hardware": hardware(),
    }


def command_line() -> str:
    """Return the typed command; for a foreign program only its name: Flower passes tokens as arguments."""
    program = Path(sys.argv[0])
    if program.name == "fedrobust" or program.parts[-2:] == ("fedrobust", "__main__.py"):
        return shlex.join(["fedrobust", *sys.argv[1:]])
    return program.name


def now() -> str:
    """Return the time, in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def hardware() -> dict[str, Any]:
    """Return processor, cores, memory in GiB and GPUs."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": available_cores(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def commit() -> str:
    """Return the checkout's commit, "+changes" if files differ from it; outside of one FEDROBUST_COMMIT."""
    where = Path(__file__).resolve().parent
    try:
        sha = _git(where, "rev-parse", "HEAD")
        return sha + ("+changes" if _git(where, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("FEDROBUST_COMMIT", "")


def _git(where: Path, *arguments: str) -> str:
    command = ["git", "-C", str(where), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _versions() -> dict[str, str]:
    optional = {name: found for name in OPTIONAL if (found := _version(name))}
    return {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}, **optional}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
