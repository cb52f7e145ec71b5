"""The skew of a partition and the cost of its pool, in numbers for tables and figures."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from partitions.assembly import Indices, PartitionError, checked_labels, is_whole, require


def class_counts(labels: ArrayLike, parts: Sequence[Indices], num_classes: int) -> Indices:
    """Count samples of each class in each part. ``[N], K parts -> [K, num_classes]`` int64.

    Repeated indices count as often as they occur. Raise `PartitionError` for a label of num_classes or
    above.
    """
    labels = checked_labels(labels)
    require(
        is_whole(num_classes) and num_classes > labels.max(),
        "num_classes",
        num_classes,
        f"above {labels.max()}",
    )
    counts = [np.bincount(labels[part], minlength=num_classes) for part in parts]
    return np.array(counts, dtype=np.int64).reshape(len(parts), num_classes)


def class_priors(counts: ArrayLike) -> NDArray[np.float64]:
    """Compute p_k(c) = n_k(c) / n_k. ``[K, C] -> [K, C]``, rows sum to 1.

    Raise `PartitionError` for a client of no samples.
    """
    counts = np.asarray(counts, dtype=np.float64)
    totals = counts.sum(axis=1, keepdims=True)
    if (totals <= 0).any():
        raise PartitionError(f"class_counts: client {totals.argmin()} holds no samples; allowed is 1 or more")
    return counts / totals


def earth_movers_distance(counts: ArrayLike, population: ArrayLike) -> NDArray[np.float64]:
    """Compute each client's distance from the population: sum over c of abs(p_k(c) - p(c)). ``[K, C], [C] -> [K]``.

    `population` is the population's class counts or its distribution. Source: Zhao et al. 2018 (arXiv
    1806.00582), section 3.2. Range 0 to 2: 0 is the population's own mix, 2 is no class in common; a client
    of one class among C equal ones has 2 * (1 - 1 / C). Raise `PartitionError` for a client or a population
    of no samples.
    """
    expected = class_priors(np.asarray(population, dtype=np.float64)[None, :])
    return np.abs(class_priors(counts) - expected).sum(axis=1)


@dataclass(frozen=True, eq=False)
class PartitionSummary:
    """The samples that K clients hold; "training set" includes the pool.

    own_sizes, sizes ``[K]``: samples before and after the pool was mixed in.
    class_counts ``[K, C]``: samples of each class in the training set.
    emd_before, emd ``[K]``: distance of own and training set from the population.
    pool_size: samples in the pool. pool_counts ``[K]``: number of them in each client's training set.
    overlap: for each client the share of its training set (repetitions counted) that at least one other
        client trains on too; the mean over clients, each weighted the same. 0 without a pool.
    bytes_moved: pool images sent to clients times the bytes of one: each once to each client that uses it.
    """

    own_sizes: Indices
    sizes: Indices
    class_counts: Indices
    emd_before: NDArray[np.float64]
    emd: NDArray[np.float64]
    pool_size: int
    pool_counts: Indices
    overlap: float
    bytes_moved: int

    @property
    def mean_emd(self) -> float:
        """Mean of `emd` over clients, each weighted equally."""
        return float(self.emd.mean())

    @property
    def max_emd(self) -> float:
        """`emd` of the most skewed client."""
        return float(self.emd.max())

    def rows(self) -> list[dict[str, int | float]]:
        """Return a tidy table: one flat dict per client, same keys in each, ``class_<c>`` for each class c."""
        return [
            {
                "client": client,
                "own_samples": int(self.own_sizes[client]),
                "samples": int(self.sizes[client]),
                "pool_samples": int(self.pool_counts[client]),
                "classes": int(np.count_nonzero(counts)),
                "emd_before": float(self.emd_before[client]),
                "emd": float(self.emd[client]),
                **{f"class_{number}": int(count) for number, count in enumerate(counts)},
            }
            for client, counts in enumerate(self.class_counts)
        ]


def summarise(
    labels: ArrayLike,
    own: Sequence[Indices],
    mixed: Sequence[Indices],
    pool: Indices,
    num_classes: int,
    image_bytes: int,
) -> PartitionSummary:
    """Summarise a partition against the population `labels` ``[N]``.

    own, mixed: per client, its own samples and what it trains on (the same list without a pool), as indices
    into labels, like pool. image_bytes: one image on the wire, at least 0.
    Raise `PartitionError` for no clients, lists of different lengths, a client of no samples, labels out of
    range.
    """
    labels = checked_labels(labels)
    if not own or len(own) != len(mixed):
        raise PartitionError(f"own, mixed: {len(own)} and {len(mixed)} clients; allowed is the same number, from 1")
    require(is_whole(image_bytes) and image_bytes >= 0, "image_bytes", image_bytes, "an integer from 0")
    population = class_counts(labels, [np.arange(len(labels))], num_classes)[0]
    before, after = (class_counts(labels, parts, num_classes) for parts in (own, mixed))
    emd_before, emd = (earth_movers_distance(counts, population) for counts in (before, after))
    in_pool = np.zeros(len(labels), dtype=bool)
    in_pool[pool] = True
    pool_counts = np.array([np.count_nonzero(in_pool[part]) for part in mixed], dtype=np.int64)
    holders = np.zeros(len(labels), dtype=np.int64)
    for part in mixed:
        holders += np.bincount(part, minlength=len(labels)) > 0  # a repeated image has one holder still
    return PartitionSummary(
        own_sizes=before.sum(axis=1),
        sizes=after.sum(axis=1),
        class_counts=after,
        emd_before=emd_before,
        emd=emd,
        pool_size=len(pool),
        pool_counts=pool_counts,
        overlap=float(np.mean([np.mean(holders[part] > 1) for part in mixed])),
        bytes_moved=int(pool_counts.sum()) * int(image_bytes),
    )
