"""The types every partitioner shares, and the checks of the arguments they have in common."""

import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from partitions.errors import PartitionError, require

Indices: TypeAlias = NDArray[np.int64]
Rng: TypeAlias = np.random.Generator | np.random.RandomState
"""Both NumPy generators: `RandomState` reproduces published splits, `Generator` is for everything else."""

Partitioner: TypeAlias = Callable[..., list[Indices]]
"""``(labels [N], num_clients, rng, *, options) -> num_clients`` disjoint, ascending index arrays."""


def is_whole(value: object) -> bool:
    """Whether `value` is an integer, Python's or NumPy's; a bool is not."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def is_finite(value: object) -> bool:
    """Whether `value` is a finite real number, Python's or NumPy's; a bool is not."""
    return isinstance(value, int | float | np.integer | np.floating) and (
        not isinstance(value, bool) and math.isfinite(value)
    )


def checked_labels(labels: ArrayLike) -> Indices:
    """Labels as int64 ``[N]``. Raises `PartitionError` unless they are one row of integers, none negative."""
    array = np.asarray(labels)
    if array.ndim != 1 or array.size == 0 or not np.issubdtype(array.dtype, np.integer):
        raise PartitionError(f"labels: {array.dtype} of shape {array.shape}; allowed are N > 0 integers in one row")
    if array.min() < 0:
        raise PartitionError(f"labels: smallest is {array.min()}; allowed are class numbers from 0")
    return array.astype(np.int64)


def checked(labels: ArrayLike, num_clients: int) -> Indices:
    """`checked_labels`, and `PartitionError` unless there are 1 to N clients."""
    array = checked_labels(labels)
    require(
        is_whole(num_clients) and 1 <= num_clients <= len(array),
        "num-clients",
        num_clients,
        f"1 to {len(array)}, the number of samples",
    )
    return array


def check_dirichlet(
    num_samples: int, num_clients: int, concentration: float, min_samples: int, max_retries: int
) -> None:
    """Raise `PartitionError` for Dirichlet settings that no draw could satisfy."""
    require(
        is_finite(concentration) and concentration > 0,
        "partition.concentration",
        concentration,
        "a finite number above 0",
    )
    require(
        is_whole(min_samples) and 1 <= min_samples <= num_samples // num_clients,
        "partition.min-samples",
        min_samples,
        f"1 to {num_samples // num_clients} ({num_samples} samples over {num_clients} clients)",
    )
    require(is_whole(max_retries) and max_retries >= 1, "max_retries", max_retries, "an integer from 1")


def retries_exhausted(
    concentration: float, num_clients: int, min_samples: int, max_retries: int, best: int
) -> PartitionError:
    """The error after `max_retries` draws, of which the best left its smallest client with `best` samples."""
    return PartitionError(
        f"partition.min-samples = {min_samples}: in {max_retries} draws of Dir({concentration:g}) the "
        f"smallest of {num_clients} clients held at most {best}; raise partition.concentration, or lower "
        "partition.min-samples or num-clients"
    )
