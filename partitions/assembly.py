"""Types and checks that every scheme shares, and the conversion of class shares to index arrays."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray


class PartitionError(ValueError):
    """A split that cannot be made: one line that says what is wrong, where, and what is allowed.

    Settings go by the names users type: ``num-clients``, ``partition.concentration``, ``pool.fraction``.
    """


def require(ok: bool, setting: str, value: object, allowed: str) -> None:
    """Raise `PartitionError` ``<setting> = <value>: allowed is <allowed>`` unless `ok`."""
    if not ok:
        raise PartitionError(f"{setting} = {value}: allowed is {allowed}")


Indices: TypeAlias = NDArray[np.int64]
Rng: TypeAlias = np.random.Generator | np.random.RandomState
"""NumPy generators: `RandomState` reproduces published splits, `Generator` is for everything else."""

Partitioner: TypeAlias = Callable[..., list[Indices]]
"""Function ``(labels [N], num_clients, rng, *, options) -> num_clients`` disjoint, ascending index arrays."""


def is_whole(value: object) -> bool:
    """Return whether `value` is an integer, Python's or NumPy's; a bool is not."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def is_finite(value: object) -> bool:
    """Return whether `value` is a finite real number, Python's or NumPy's; a bool is not."""
    return isinstance(value, int | float | np.integer | np.floating) and (
        not isinstance(value, bool) and math.isfinite(value)
    )


def checked_labels(labels: ArrayLike) -> Indices:
    """Return labels as int64 ``[N]``. Raise `PartitionError` unless they are one row of integers, none negative."""
    array = np.asarray(labels)
    if array.ndim != 1 or array.size == 0 or not np.issubdtype(array.dtype, np.integer):
        raise PartitionError(f"labels: {array.dtype} of shape {array.shape}; allowed are N > 0 integers in one row")
    if array.min() < 0:
        raise PartitionError(f"labels: smallest is {array.min()}; allowed are class numbers from 0")
    return array.astype(np.int64)


def checked(labels: ArrayLike, num_clients: int) -> Indices:
    """Return the `checked_labels`; raise `PartitionError` unless there are 1 to N clients."""
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
    """Return the error after `max_retries` draws; in the best, the smallest client had `best` samples."""
    return PartitionError(
        f"partition.min-samples = {min_samples}: in {max_retries} draws of Dir({concentration:g}) the "
        f"smallest of {num_clients} clients held at most {best}; raise partition.concentration, or lower "
        "partition.min-samples or num-clients"
    )


def dirichlet_proportions(rng: Rng, concentration: float, num_clients: int, size: int) -> NDArray[np.float64]:
    """Draw from Dir(concentration, ..., concentration) over the clients `size` times. ``-> [size, num_clients]``.

    Rows are finite, non-negative and sum to 1. NumPy divides gamma draws by their sum. Below a concentration
    of about 0.001 all of them may underflow (`RandomState` then returns NaN), near the largest float they
    overflow (a row of zeros). Such a row is replaced by the distribution's own limit: all on one client drawn
    uniformly for concentration -> 0, equal parts for concentration -> infinity. Valid rows, and the random stream as
    long as all rows are valid, are NumPy's.
    """
    drawn = np.asarray(rng.dirichlet(np.full(num_clients, float(concentration)), size), dtype=np.float64)
    broken = np.flatnonzero(~(np.abs(drawn.sum(axis=1) - 1) < 1e-6))  # a comparison with NaN is False
    if broken.size and concentration < 1:
        drawn[broken] = 0.0
        drawn[broken, rng.choice(num_clients, broken.size)] = 1.0
    elif broken.size:
        drawn[broken] = 1 / num_clients
    return drawn


def class_members(labels: Indices) -> list[Indices]:
    """Return the ascending indices of each class present, in ascending order of class. ``[N] -> C arrays``."""
    counts = np.bincount(labels)
    by_class = np.argsort(labels, kind="stable").astype(np.int64)
    return np.split(by_class, np.cumsum(counts[counts > 0])[:-1])


def split_counts(proportions: np.ndarray, totals: np.ndarray) -> Indices:
    """Compute whole samples per class and client from proportions.

    ``[C, K], [C] -> [C, K]``; each row sums to its total. The *cumulative* proportions are rounded to the
    nearest sample, so no count is off by one sample or more and nothing is left over.
    """
    totals = totals[:, None]
    edges = np.minimum(np.rint(np.cumsum(proportions, axis=1) * totals).astype(np.int64), totals)
    edges[:, -1:] = totals
    return np.diff(edges, axis=1, prepend=0)


def deal(members: list[Indices], counts: Indices, rng: Rng) -> list[Indices]:
    """Give client k ``counts[c, k]`` random samples of class c. ``C arrays, [C, K] -> K parts``."""
    num_clients = counts.shape[1]
    owner = np.empty(sum(map(len, members)), dtype=np.int64)
    for member, count in zip(members, counts, strict=True):
        owner[rng.permutation(member)] = np.repeat(np.arange(num_clients), count)
    return parts_of(owner, num_clients)


def parts_of(owner: Indices, num_clients: int) -> list[Indices]:
    """Return the ascending int64 indices that each client owns. ``[N] -> K parts``.

    Raise `PartitionError` if a client owns nothing: it could not train.
    """
    sizes = np.bincount(owner, minlength=num_clients)
    if sizes.min() == 0:
        raise PartitionError(
            f"num-clients = {num_clients}: client {sizes.argmin()} would hold none of the {len(owner)} "
            "samples; use fewer clients or more samples"
        )
    by_owner = np.argsort(owner, kind="stable").astype(np.int64)  # stable: ascending within a client
    return np.split(by_owner, np.cumsum(sizes)[:-1])
