"""One root seed, many independent named streams.

A stream is named by words and numbers: `stream(7, "client", partition, server_round)`. It depends only on its name, so
that neither the order in which clients run, nor their number, nor a resumption changes it: a checkpoint needs no
generator states, only the seed.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # NumPy's streams need no PyTorch
    import torch


def stream_seed(seed: int, *name: str | int) -> np.random.SeedSequence:
    """Return the SeedSequence of the stream `name` below the root `seed` (words enter by their CRC-32)."""
    words = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in name]
    return np.random.SeedSequence([seed, *words])


def numpy_stream(seed: int, *name: str | int) -> np.random.Generator:
    """Return the NumPy generator of the stream `name`."""
    return np.random.default_rng(stream_seed(seed, *name))


def int_stream(seed: int, *name: str | int) -> int:
    """Return a 63-bit seed for libraries that take one number."""
    return int(stream_seed(seed, *name).generate_state(1, np.uint64)[0] >> 1)


def torch_stream(seed: int, *name: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return the torch generator on `device` of the stream `name`."""
    import torch

    return torch.Generator(device=device).manual_seed(int_stream(seed, *name))


@contextmanager
def seeded_layers(seed: int, *name: str | int, device: torch.device) -> Iterator[None]:
    """Use the stream `name` as PyTorch's global generator inside the block; afterwards restore its state.

    Layers that are random in train mode (RReLU, dropout) draw from it.
    """
    import torch

    forked = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=forked):
        torch.default_generator.manual_seed(int_stream(seed, *name, "layers"))
        if forked:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(int_stream(seed, *name, "layers"))
        yield
