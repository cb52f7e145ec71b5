"""Setup of a process that trains: memory allocator, threads, device, precision, and the limits of a container."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import torch

from fedrobust.errors import ConfigError

# (model, objective) whose natural and robust accuracy was shown equal in bfloat16 and float32 over three seeds
# (benchmarks/precision.py and its README): only these take bfloat16 under `precision = "auto"`.
BFLOAT16_SHOWN_EQUAL = frozenset({("calfat-cnn", "at")})

UNLIMITED = 1 << 60  # bytes; version 1 of cgroups writes a number of about this size if there is no limit

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> None:
    """Let glibc keep what a training step frees for the next step, instead of returning it to the kernel.

    Activations are larger than malloc's 32 MiB ceiling for its own pools, so each is mapped, page-faulted and
    unmapped once per step; serving them from the heap and never trimming it removes that (1.4 to 2 times faster
    steps on a CPU, for a resident size that stays at its peak). Only glibc has these options; with other libraries
    nothing is done. Threads inherit it; call it before the first large allocation.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, ctypes.c_int(2**31 - 1).value)
        mallopt(_M_TOP_PAD, 64 << 20)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Make torch use `count` CPU threads inside the block; 0 changes nothing.

    The number of threads changes the order of float sums: results are bit-identical only at equal counts.
    """
    before = torch.get_num_threads()
    if count and count != before:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)


@contextmanager
def explained_out_of_memory(device: torch.device) -> Iterator[None]:
    """Explain the GPU's memory use, and name settings to lower, if the block runs out of its memory.

    Raises:
        MemoryError: instead of PyTorch's own error, which has neither; the block's memory is released.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        free, total = torch.cuda.mem_get_info(device)
        ours = torch.cuda.max_memory_allocated(device)
        torch.cuda.empty_cache()
        raise MemoryError(
            f"out of GPU memory: {(total - free) / 2**30:.1f} of {total / 2**30:.1f} GiB were in use on "
            f"{torch.cuda.get_device_name(device)}, {ours / 2**30:.1f} GiB by this client; lower local.batch-size or "
            "evaluation.batch-size, or let fewer clients share the GPU (workers.num)"
        ) from error


def available_cores() -> int:
    """Return the CPU cores this process may use: those it is bound to, limited to the whole cores of its container."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = cpu_limit()
    return cores if limit is None else max(1, min(cores, int(limit)))


def available_memory() -> int:
    """Return the bytes this process may allocate: free memory of the machine, limited by its container."""
    free, limit = psutil.virtual_memory().available, free_memory()
    return free if limit is None else min(free, limit)


def heed_cores() -> None:
    """Limit PyTorch's threads to the cores of this process: it does not know a container's limit."""
    if torch.get_num_threads() > available_cores():
        torch.set_num_threads(available_cores())


def asked_threads() -> int:
    """Return the threads per process that OMP_NUM_THREADS sets; 0 if it is unset or not a number."""
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(first) if first.isdecimal() else 0


def pick_device(name: str) -> torch.device:
    """Return the device named by the setting `device`; "auto" takes CUDA, then MPS, then the CPU.

    Raises:
        ConfigError: the device is not on this machine.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    device = torch.device(name)
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}[device.type]
    if device.type == "cuda" and there and (device.index or 0) >= torch.cuda.device_count():
        there = False
    if not there:
        raise ConfigError(f"device = {name!r}: not on this machine; use auto, or an existing device")
    return device


@contextmanager
def exact_products() -> Iterator[None]:
    """Compute products of float32 in float32 inside the block, as on a CPU.

    By default cuDNN rounds the factors of convolutions to 10 bits (TF32) on CUDA: logits change in the fourth digit,
    and with the batch size, and images near the decision boundary change sides.
    """
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def pick_precision(setting: str, model: str, objective: str, device: torch.device) -> torch.dtype:
    """Return float32 or bfloat16 for the forward and backward passes of training.

    "auto" is bfloat16 if the hardware multiplies it natively and BFLOAT16_SHOWN_EQUAL has the model with the objective.
    """
    if setting != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[setting]
    if (model, objective) in BFLOAT16_SHOWN_EQUAL and has_bfloat16_units(device):
        return torch.bfloat16
    return torch.float32


def has_bfloat16_units(device: torch.device) -> bool:
    """Return whether the device multiplies bfloat16 natively: AMX or AVX512-BF16 on a CPU, Ampere or later on CUDA."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return False


def cpu_limit(root: Path = Path("/")) -> float | None:
    """Return the CPU time per second that this process may use, in CPUs, as its cgroup (version 1 or 2) says; None
    without a limit.
    """
    limits = []
    for folder in _folders("cpu", root):
        words = _words(folder / "cpu.max") or _words(folder / "cpu.cfs_quota_us") + _words(folder / "cpu.cfs_period_us")
        if len(words) == 2 and words[0] not in ("max", "-1"):
            limits.append(int(words[0]) / int(words[1]))
    return min(limits, default=None)


def free_memory(root: Path = Path("/")) -> int | None:
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
