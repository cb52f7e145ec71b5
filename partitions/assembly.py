"""From who owns how much of each class to one index array per client.

Every partitioner ends here with one owner per sample, so its parts are disjoint and cover all samples by
construction, whatever the arithmetic before did.
"""

import numpy as np

from partitions.contracts import Indices, Rng
from partitions.errors import PartitionError


def class_members(labels: Indices) -> list[Indices]:
    """The ascending indices of each class present, in ascending order of class. ``[N] -> C arrays``."""
    counts = np.bincount(labels)
    by_class = np.argsort(labels, kind="stable").astype(np.int64)
    return np.split(by_class, np.cumsum(counts[counts > 0])[:-1])


def split_counts(proportions: np.ndarray, totals: np.ndarray) -> Indices:
    """Whole samples per class and client from proportions.

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
    """The ascending int64 indices that each client owns. ``[N] -> K parts``.

    Raises `PartitionError` if a client owns nothing: it could not train.
    """
    sizes = np.bincount(owner, minlength=num_clients)
    if sizes.min() == 0:
        raise PartitionError(
            f"num-clients = {num_clients}: client {sizes.argmin()} would hold none of the {len(owner)} "
            "samples; use fewer clients or more samples"
        )
    by_owner = np.argsort(owner, kind="stable").astype(np.int64)  # stable: ascending within a client
    return np.split(by_owner, np.cumsum(sizes)[:-1])
