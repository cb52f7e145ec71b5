"""Label skew by a fixed number of classes per client."""

import heapq

import numpy as np
from numpy.typing import ArrayLike

from partitions.assembly import Indices, Rng, checked, class_members, is_whole, parts_of, require


def shards(labels: ArrayLike, num_clients: int, rng: Rng, *, classes_per_client: int = 2) -> list[Indices]:
    """Cut the samples into K * classes_per_client shards of one class each; give each client equally many.

    A client has at most `classes_per_client` classes; fewer if it gets two shards of one class. Each class gets
    shards in proportion to its samples, so that the largest shard is as small as possible, and its samples go to
    its shards at random in equal parts.

    Source: McMahan et al. 2017 (arXiv 1602.05629), section 3. Deviation: there the sorted samples are cut
    into equal shards, which contain several classes if the numbers do not divide; here a shard never does, and
    shard sizes differ instead. Limit case: if K * classes_per_client is a multiple of C and classes are
    equal, the two agree and all shards have the same size (up to 1).

    Args:
        labels: class numbers of the samples, ``[N]``, integers of at least 0.
        num_clients: number K of clients, 1 to N.
        rng: source of all random draws.
        classes_per_client: number of shards per client, 1 to the number C of classes, so that C <= K * it <= N.

    Returns:
        K ascending int64 index arrays, one per client; together they hold each of the N samples once.

    Raises:
        PartitionError: num_clients or classes_per_client is out of range.
    """
    labels = checked(labels, num_clients)
    members = class_members(labels)
    lowest, highest = -(-len(members) // num_clients), min(len(members), len(labels) // num_clients)
    allowed = f"{lowest} to {highest}" if lowest <= highest else "no number"
    require(
        is_whole(classes_per_client) and lowest <= classes_per_client <= highest,
        "partition.classes-per-client",
        classes_per_client,
        f"{allowed} ({len(labels)} samples of {len(members)} classes over {num_clients} clients)",
    )
    num_shards = num_clients * classes_per_client
    shards_per_class = _apportion([len(member) for member in members], num_shards)
    client_of_shard = rng.permutation(num_shards) // classes_per_client
    owner = np.empty(len(labels), dtype=np.int64)
    first = 0
    for member, count in zip(members, shards_per_class, strict=True):
        shard = first + np.arange(len(member)) * count // len(member)
        owner[rng.permutation(member)] = client_of_shard[shard]
        first += count
    return parts_of(owner, num_clients)


def _apportion(sizes: list[int], num_shards: int) -> list[int]:
    """Return shards per class: 1 each, and every further one of `num_shards` goes to the class with the largest shards.

    No class gets more shards than samples while num_shards <= sum(sizes): a class down to shards of one
    sample is chosen only when all are.
    """
    shares = [1] * len(sizes)
    heap = [(-float(size), index) for index, size in enumerate(sizes)]
    heapq.heapify(heap)
    for _ in range(num_shards - len(sizes)):
        index = heap[0][1]
        shares[index] += 1
        heapq.heapreplace(heap, (-sizes[index] / shares[index], index))
    return shares
