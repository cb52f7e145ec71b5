"""Setup of a process that trains: memory allocator, threads, device, precision."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from fedrobust.errors import ConfigError
from fedrobust.hardware.cgroup import available_cores

# (model, objective) whose natural and robust accuracy was shown equal in bfloat16 and float32 over three seeds
# (benchmarks/precision.py and its README): only these take bfloat16 under `precision = "auto"`.
BFLOAT16_SHOWN_EQUAL = frozenset({("calfat-cnn", "at")})

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


def heed_cores() -> None:
    """Limit PyTorch's threads to the cores of this process: it does not know a container's limit."""
    if torch.get_num_threads() > available_cores():
        torch.set_num_threads(available_cores())


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
