"""Label skew and quantity skew from one number."""

import numpy as np
from numpy.typing import ArrayLike

from partitions.assembly import (
    Indices,
    Rng,
    check_dirichlet,
    checked,
    class_members,
    deal,
    dirichlet_proportions,
    retries_exhausted,
    split_counts,
)

MAX_RETRIES = 1000
"""Draws before giving up: one costs about 1 ms for 1,000 clients and 10 classes, so a hopeless setting is
refused within a few seconds."""


def dirichlet(
    labels: ArrayLike,
    num_clients: int,
    rng: Rng,
    *,
    concentration: float = 0.5,
    min_samples: int = 10,
    max_retries: int = MAX_RETRIES,
) -> list[Indices]:
    """Spread each class over the clients in Dirichlet proportions.

    For each class c: p_c ~ Dir(concentration) over the K clients, and client k gets p_c[k] * n_c random
    samples of it. All counts are drawn anew, at most `max_retries` times, until the smallest client has
    `min_samples`; samples are dealt once, to the draw that is kept.

    Source: Yurochkin et al. 2019 (arXiv 1905.12022); Li et al. 2022 (NIID-Bench, arXiv 2102.02079). Hsu et
    al. 2019 (arXiv 1909.06335) draw over classes for each client instead, which keeps the sizes equal.
    Deviation: retries are bounded, and split points are rounded to the nearest sample rather than down.
    Limit cases: concentration -> infinity gives every client N / K samples in the population's class mix;
    concentration -> 0 gives each class to one client.

    Args:
        labels: class numbers of the samples, ``[N]``, integers of at least 0.
        num_clients: number K of clients, 1 to N.
        rng: source of all random draws.
        concentration: concentration of the Dirichlet distribution, finite, above 0; small values skew the labels.
        min_samples: fewest samples that a client may hold, 1 to N // K.
        max_retries: largest number of draws, at least 1.

    Returns:
        K ascending int64 index arrays, one per client; together they hold each of the N samples once.

    Raises:
        PartitionError: a setting is out of range, or no draw had `min_samples` for its smallest client.
    """
    labels = checked(labels, num_clients)
    check_dirichlet(len(labels), num_clients, concentration, min_samples, max_retries)
    members = class_members(labels)
    totals = np.array([len(member) for member in members])
    best = 0
    for _ in range(max_retries):
        proportions = dirichlet_proportions(rng, concentration, num_clients, len(members))
        counts = split_counts(proportions, totals)
        smallest = int(counts.sum(axis=0).min())
        if smallest >= min_samples:
            return deal(members, counts, rng)
        best = max(best, smallest)
    raise retries_exhausted(concentration, num_clients, min_samples, max_retries, best)
