"""A class-balanced pool that all clients share (Zhao et al. 2018, arXiv 1806.00582), and ways to add it to their
images.

All indices count in the whole training set. The pool is removed before partitioning, so a partition of the rest is
mapped back: ``own = [rest[part] for part in iid(labels[rest], num_clients, rng)]``.
"""

import numpy as np
from numpy.typing import ArrayLike

from partitions.assembly import Indices, PartitionError, Rng, checked_labels, class_members, is_finite, require

MAX_FRACTION = 0.4
MODES = ("add", "replace", "control")


def draw_pool(labels: ArrayLike, fraction: float, rng: Rng, *, whole: int | None = None) -> tuple[Indices, Indices]:
    """Draw a pool of ``round(fraction * whole)`` samples, equally many of each class, from those left for training.

    Class counts of the pool differ by at most 1; the classes with one sample more are random. Limit case: fraction 0
    is an empty pool.

    Args:
        labels: class numbers of the samples that are left, ``[N]``.
        fraction: size of the pool as a share of the whole training set, 0 to 0.4 (the paper's beta; its G is
            class-uniform).
        rng: source of all random draws.
        whole: size of the whole training set; N unless a part was removed before, as for validation.

    Returns:
        ``(pool, rest)``: ascending and disjoint, together all N.

    Raises:
        PartitionError: the fraction is out of range, fewer than the pool and one sample more are left, or a class,
            which is named, has too few samples.
    """
    labels = checked_labels(labels)
    _check_fraction(fraction)
    whole = len(labels) if whole is None else whole
    size = round(fraction * whole)
    if size >= len(labels):
        raise PartitionError(
            f"pool.fraction = {fraction}: {size} of {whole} training samples are asked for, {len(labels)} are left "
            "beside the validation slice; lower pool.fraction or data.validation-fraction"
        )
    everything = np.arange(len(labels), dtype=np.int64)
    pool = _draw_balanced(everything, labels, size, rng, f"pool.fraction = {fraction}")
    return pool, np.delete(everything, pool)


def client_share(pool: Indices, labels: ArrayLike, share: float, rng: Rng) -> Indices:
    """Draw one client's random part of the pool: ``round(share * len(pool))`` samples, equally many of each class.

    Limit case: share 1 is the whole pool.

    Args:
        pool: indices of the pool.
        labels: class numbers of all samples.
        share: share of the pool, above 0, at most 1 (the paper's alpha).
        rng: source of all random draws.

    Returns:
        Ascending indices out of `pool`; class counts differ by at most 1.

    Raises:
        PartitionError: the share is out of range, or `pool` is so unbalanced that a class has too few.
    """
    require(is_finite(share) and 0 < share <= 1, "pool.share", share, "above 0, at most 1")
    pool = np.sort(pool)
    return _draw_balanced(pool, checked_labels(labels), round(share * len(pool)), rng, f"pool.share = {share}")


def mix(own: Indices, shared: Indices, *, mode: str, fraction: float, rng: Rng) -> Indices:
    """Return the indices one client trains on: its n = ``len(own)`` samples, mixed with its part of the pool.

    - ``add``: own and shared, n + len(shared). More data and less skew (Zhao et al.'s way).
    - ``replace``: n in all: ``round(fraction * n)`` drawn from shared without repetition, the rest from own.
      Less skew at the same size.
    - ``control``: own and len(shared) further draws *from own*, with repetition. It has ``add``'s size with the
      client's own label distribution: a gain without the pool's classes is not due to them.

    Limit case: fraction 0 leaves own as it is, in every mode.

    Args:
        own: indices of the client's own samples, at least one.
        shared: indices of its part of the pool, disjoint from `own`.
        mode: "add", "replace" or "control".
        fraction: size of the pool, 0 to 0.4; only ``replace`` needs it, the other modes take the size of `shared`.
        rng: source of all random draws.

    Returns:
        Ascending int64 indices; only ``control`` repeats any.

    Raises:
        PartitionError: the mode is unknown, the fraction out of range, own empty, or ``replace`` needs more than
            `shared` has: training on less than the requested fraction would be another experiment under the same
            name. It cannot happen with pool.share = 1: as n <= N, fraction * n is at most the pool.
    """
    if mode not in MODES:
        raise PartitionError(f"pool.mode = {mode}: allowed is {', '.join(MODES)}")
    _check_fraction(fraction)
    if len(own) == 0:
        raise PartitionError("own: the client holds no samples; allowed is 1 or more")
    if fraction == 0:
        parts = (own,)
    elif mode == "add":
        parts = own, shared
    elif mode == "control":
        parts = own, rng.choice(own, len(shared))
    else:
        drawn = round(fraction * len(own))
        if drawn > len(shared):
            raise PartitionError(
                f"pool.fraction = {fraction}: to replace {drawn} of {len(own)} samples the client's "
                f"part of the pool has only {len(shared)}; raise pool.share, lower pool.fraction, "
                "or use pool.mode add"
            )
        parts = rng.permutation(own)[drawn:], rng.permutation(shared)[:drawn]
    return np.sort(np.concatenate(parts, dtype=np.int64))


def _check_fraction(fraction: float) -> None:
    require(
        is_finite(fraction) and 0 <= fraction <= MAX_FRACTION,
        "pool.fraction",
        fraction,
        f"0 to {MAX_FRACTION}",
    )


def _draw_balanced(indices: Indices, labels: Indices, size: int, rng: Rng, asked_by: str) -> Indices:
    """Draw `size` of ascending `indices`, class counts at most 1 apart; raise `PartitionError` if impossible."""
    if size == 0:
        return np.empty(0, dtype=np.int64)
    members = class_members(labels[indices])
    base, odd = divmod(size, len(members))
    # The odd ones come from classes that can spare one: no draw fails that another seed would have allowed.
    spare = [c for c, member in enumerate(members) if len(member) > base]
    smallest = min(members, key=len)
    if len(smallest) < base or len(spare) < odd:
        raise PartitionError(
            f"{asked_by}: class {labels[indices[smallest[0]]]} has {len(smallest)} samples, "
            f"and {size} over {len(members)} classes take {base + (odd > 0)} of each; take fewer"
        )
    wanted = np.full(len(members), base)
    wanted[rng.permutation(np.array(spare, dtype=np.int64))[:odd]] += 1
    drawn = [rng.permutation(member)[:count] for member, count in zip(members, wanted, strict=True)]
    return np.sort(indices[np.concatenate(drawn)])
