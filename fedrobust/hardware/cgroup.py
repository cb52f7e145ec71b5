"""Cores and memory that this process may use, within the limits of a container or a batch job: its cgroup, version 1 or
2.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

ROOT = Path("/")
UNLIMITED = 1 << 60  # bytes; version 1 writes a number of about this size if there is no limit


def available_cores() -> int:
    """Return the CPU cores this process may use: those it is bound to, limited to the whole cores of its container."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = cpu_limit()
    return cores if limit is None else max(1, min(cores, int(limit)))


def available_memory() -> int:
    """Return the bytes this process may allocate: free memory of the machine, limited by its container."""
    free, limit = psutil.virtual_memory().available, free_memory()
    return free if limit is None else min(free, limit)


def asked_threads() -> int:
    """Return the threads per process that OMP_NUM_THREADS sets; 0 if it is unset or not a number."""
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(first) if first.isdecimal() else 0


def cpu_limit(root: Path = ROOT) -> float | None:
    """Return the CPU time per second that this process may use, in CPUs; None without a limit."""
    limits = []
    for folder in _folders("cpu", root):
        words = _words(folder / "cpu.max") or _words(folder / "cpu.cfs_quota_us") + _words(folder / "cpu.cfs_period_us")
        if len(words) == 2 and words[0] not in ("max", "-1"):
            limits.append(int(words[0]) / int(words[1]))
    return min(limits, default=None)


def free_memory(root: Path = ROOT) -> int | None:
    """Return the bytes that this process may still allocate, its files in the page cache not counted; None without a
    limit.
    """
    limits = []
    for folder in _folders("memory", root):
        for limit, usage, cached in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            (most,) = _words(folder / limit) or ("max",)
            if most == "max" or int(most) >= UNLIMITED:
                continue
            (used,) = _words(folder / usage) or ("0",)
            stat = dict(zip(*[iter(_words(folder / "memory.stat"))] * 2, strict=False))
            limits.append(max(0, int(most) - int(used) + int(stat.get(cached, 0))))
    return min(limits, default=None)


def _folders(controller: str, root: Path) -> Iterator[Path]:
    """Yield the cgroup of this process and all above it, as far as they are mounted here.

    In a container /proc may name the group as the host does, while what is mounted begins with it: the mount itself is
    always among them.
    """
    with suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and controller not in controllers.split(","):
                continue
            mount = root / "sys/fs/cgroup" / controllers
            if controllers and not mount.is_dir():  # "cpu,cpuacct" is also mounted as "cpu"
                mount = root / "sys/fs/cgroup" / controller
            group = mount / path.lstrip("/")
            yield from (group, *(above for above in group.parents if above.is_relative_to(mount)))


def _words(path: Path) -> list[str]:
    """Return the words of a file; none if it cannot be read."""
    try:
        return path.read_text().split()
    except OSError:
        return []
