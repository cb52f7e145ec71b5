"""The split without skew."""

import numpy as np
from numpy.typing import ArrayLike

from partitions.assembly import Indices, Rng, checked, parts_of


def iid(labels: ArrayLike, num_clients: int, rng: Rng) -> list[Indices]:
    """Shuffle, then cut into equal parts: neither label skew nor quantity skew.

    labels: ``[N]`` class numbers. Returns one ascending index array per client; together they hold each of
    the N samples once, and their sizes differ by at most 1. Source: McMahan et al. 2017 (arXiv 1602.05629),
    section 3. Limit case: one client holds everything. Raises `PartitionError` unless 1 <= num_clients <= N.
    """
    num_samples = len(checked(labels, num_clients))
    owner = np.empty(num_samples, dtype=np.int64)
    owner[rng.permutation(num_samples)] = np.arange(num_samples) * num_clients // num_samples
    return parts_of(owner, num_clients)
