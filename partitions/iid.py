"""The split without skew."""

import numpy as np
from numpy.typing import ArrayLike

from partitions.assembly import Indices, Rng, checked, parts_of


def iid(labels: ArrayLike, num_clients: int, rng: Rng) -> list[Indices]:
    """Shuffle, then cut into equal parts: neither label skew nor quantity skew.

    Source: McMahan et al. 2017 (arXiv 1602.05629), section 3. Limit case: one client holds everything.

    Args:
        labels: class numbers of the samples, ``[N]``, integers of at least 0.
        num_clients: number K of clients, 1 to N.
        rng: source of all random draws.

    Returns:
        K ascending int64 index arrays, one per client; together they hold each of the N samples once, and their
        sizes differ by at most 1.

    Raises:
        PartitionError: num_clients is out of range.
    """
    num_samples = len(checked(labels, num_clients))
    owner = np.empty(num_samples, dtype=np.int64)
    owner[rng.permutation(num_samples)] = np.arange(num_samples) * num_clients // num_samples
    return parts_of(owner, num_clients)
