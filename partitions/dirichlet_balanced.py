"""Label skew with limited quantity skew, as CalFAT splits."""

import numpy as np
from numpy.typing import ArrayLike

from partitions.assembly import (
    Indices,
    Rng,
    check_dirichlet,
    checked,
    class_members,
    dirichlet_proportions,
    parts_of,
    retries_exhausted,
)

MAX_RETRIES = 500
"""Draws before giving up. Each shuffles all samples, as the published stream does, so it costs about twice
one of `partitions.dirichlet`."""


def dirichlet_balanced(
    labels: ArrayLike,
    num_clients: int,
    rng: Rng,
    *,
    concentration: float = 0.1,
    min_samples: int = 10,
    max_retries: int = MAX_RETRIES,
) -> list[Indices]:
    """Spread each class in Dirichlet proportions over those clients that hold fewer than N / K samples.

    For each class c in ascending order: shuffle its samples; p ~ Dir(concentration); p[k] = 0 for each client
    k that already holds N / K samples; renormalise; cut at floor(cumsum(p) * n_c). Repeat all of it, at most
    `max_retries` times, until the smallest client has `min_samples`.

    Source: CalFAT (Chen et al. 2022, arXiv 2205.14926), whose code follows NIID-Bench (arXiv 2102.02079); the
    order of random draws is theirs. Limit case: 10 classes of 5,000, 5 clients, concentration 0.1 and
    ``RandomState(2021)`` give the published sizes 4418, 14309, 12312, 7479, 11482.
    Deviations: retries are bounded. If underflow leaves all clients below N / K with proportion 0, the published
    code divides 0 by 0; here p is drawn again over only those clients, which is the same distribution. The
    published code shuffles each client's samples at the end; here they ascend.

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
    best = 0
    for _ in range(max_retries):
        owner = _draw_owners(members, len(labels), num_clients, rng, concentration)
        smallest = int(np.bincount(owner, minlength=num_clients).min())
        if smallest >= min_samples:
            return parts_of(owner, num_clients)
        best = max(best, smallest)
    raise retries_exhausted(concentration, num_clients, min_samples, max_retries, best)


def _draw_owners(members: list[Indices], num_samples: int, num_clients: int, rng: Rng, concentration: float) -> Indices:
    """Draw one owner per sample ``[N]``: one pass over the classes."""
    clients = np.arange(num_clients)
    sizes = np.zeros(num_clients, dtype=np.int64)
    owner = np.empty(num_samples, dtype=np.int64)
    for member in members:
        shuffled = member.copy()
        rng.shuffle(shuffled)
        is_open = sizes < num_samples / num_clients  # never all False: samples are left, so someone is below
        proportions = dirichlet_proportions(rng, concentration, num_clients, 1)[0] * is_open
        if proportions.sum() == 0:
            proportions[is_open] = dirichlet_proportions(rng, concentration, int(is_open.sum()), 1)[0]
        proportions /= proportions.sum()
        edges = (np.cumsum(proportions) * len(member)).astype(np.int64)[:-1]
        counts = np.diff(edges, prepend=0, append=len(member))
        owner[shuffled] = np.repeat(clients, counts)
        sizes += counts
    return owner
