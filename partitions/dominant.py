"""Label skew by a few dominant classes and a thin spread of all others, as SFAT splits."""

import numpy as np
from numpy.typing import ArrayLike

from partitions.assembly import (
    Indices,
    PartitionError,
    Rng,
    checked,
    class_members,
    deal,
    is_finite,
    is_whole,
    require,
    split_counts,
)


def dominant(
    labels: ArrayLike,
    num_clients: int,
    rng: Rng,
    *,
    dominant_share: float = 0.92,
    classes_per_client: int = 2,
) -> list[Indices]:
    """Give each class mostly to the clients that own it, and a little to everyone else.

    Client k owns the `classes_per_client` classes from k * classes_per_client on, counted modulo C. If a class has
    o owners, each owner gets dominant_share / o of the samples and each of the other K - o clients
    (1 - dominant_share) / (K - o). The samples are random, their numbers are not. With 5 clients, two classes each
    of ten, a client holds 92 % of its own two classes and 2 % of each of the other eight: 92 + 4 * 2 = 100. With
    equal classes and equally many owners each, `dominant_share` is also the share of a client's *data* in its
    dominant classes.

    Source: SFAT (Zhu et al. 2023, arXiv 2303.00250), 5 clients on CIFAR-10, and its code's 2 % for each other
    client. Deviations: other numbers of clients by the rule above; there the cut is by blocks of sorted
    samples, here by class, with counts to the nearest sample.
    Limit cases: dominant_share = o / K is an even split; at 1 a client holds its own classes only.

    Args:
        labels: class numbers of the samples, ``[N]``, integers of at least 0.
        num_clients: number K of clients, 1 to N.
        rng: source of all random draws.
        dominant_share: share of a class's samples that its owners hold, above 0, at most 1.
        classes_per_client: number of classes that each client owns, from C / K, rounded up, to the number C of classes.

    Returns:
        K ascending int64 index arrays, one per client; together they hold each of the N samples once.

    Raises:
        PartitionError: a setting is out of range, a class would have no owner, all clients would own one (nobody
            is left for the rest), or a client would hold no sample.
    """
    labels = checked(labels, num_clients)
    members = class_members(labels)
    num_classes = len(members)
    lowest = -(-num_classes // num_clients)
    require(
        is_finite(dominant_share) and 0 < dominant_share <= 1,
        "partition.dominant-share",
        dominant_share,
        "above 0, at most 1",
    )
    require(
        is_whole(classes_per_client) and lowest <= classes_per_client <= num_classes,
        "partition.classes-per-client",
        classes_per_client,
        f"{lowest} to {num_classes}: each class needs an owner among {num_clients} clients",
    )
    slots = np.arange(num_clients * classes_per_client)
    owns = np.zeros((num_classes, num_clients), dtype=bool)
    owns[slots % num_classes, slots // classes_per_client] = True
    owners = owns.sum(axis=1, keepdims=True)
    if dominant_share < 1 and owners.max() == num_clients:
        raise PartitionError(
            f"partition.classes-per-client = {classes_per_client}: a class would be dominant for all "
            f"{num_clients} clients, with nobody left for the other {1 - dominant_share:.2%} of it; "
            "use fewer classes per client or more clients"
        )
    others = np.maximum(num_clients - owners, 1)  # if all clients own a class, the value is not used
    proportions = np.where(owns, dominant_share / owners, (1 - dominant_share) / others)
    return deal(members, split_counts(proportions, np.array([len(member) for member in members])), rng)
