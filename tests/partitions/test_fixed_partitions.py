"""The splits whose class counts are known in closed form: iid, shards, dominant."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partitions import PartitionError, class_counts, dominant, iid, shards

LABELS = np.repeat(np.arange(10), 500)


@given(num_samples=st.integers(1, 200), num_clients=st.integers(1, 200))
def test_iid_sizes_differ_by_at_most_one(num_samples: int, num_clients: int) -> None:
    num_clients = min(num_clients, num_samples)
    sizes = [len(part) for part in iid(np.zeros(num_samples, int), num_clients, np.random.default_rng(0))]
    assert max(sizes) - min(sizes) <= 1


@settings(deadline=None)
@given(
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=8),
    num_clients=st.integers(1, 30),
    classes_per_client=st.integers(1, 8),
)
def test_shards_hold_at_most_k_classes(sizes: list[int], num_clients: int, classes_per_client: int) -> None:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    shard_count = num_clients * classes_per_client
    possible = classes_per_client <= len(sizes) <= shard_count <= len(labels)
    if num_clients > len(labels):
        return
    rng = np.random.default_rng(0)
    if not possible:
        with pytest.raises(PartitionError, match=r"^partition\.classes-per-client = "):
            shards(labels, num_clients, rng, classes_per_client=classes_per_client)
        return
    parts = shards(labels, num_clients, rng, classes_per_client=classes_per_client)
    counts = class_counts(labels, parts, len(sizes))
    assert (counts > 0).sum(axis=1).max() <= classes_per_client
    assert min(map(len, parts)) >= classes_per_client


def test_shards_of_equal_classes_are_mcmahans() -> None:
    parts = shards(LABELS, 100, np.random.default_rng(0), classes_per_client=2)
    counts = class_counts(LABELS, parts, 10)
    assert {len(part) for part in parts} == {50}
    assert set(np.unique(counts)) == {0, 25, 50}


def test_shards_of_all_classes_for_one_client_are_everything() -> None:
    (part,) = shards(LABELS, 1, np.random.default_rng(0), classes_per_client=10)
    assert np.array_equal(part, np.arange(5000))


def test_dominant_is_sfats_92_and_2_percent() -> None:
    counts = class_counts(LABELS, dominant(LABELS, 5, np.random.default_rng(0)), 10)
    expected = np.full((5, 10), 10)
    for client in range(5):
        expected[client, 2 * client : 2 * client + 2] = 460
    assert np.array_equal(counts, expected)
    assert (counts.max(axis=1) * 2 == 0.92 * counts.sum(axis=1)).all()


def test_dominant_owners_of_one_class_split_its_share() -> None:
    counts = class_counts(LABELS, dominant(LABELS, 10, np.random.default_rng(0)), 10)
    assert (np.sort(counts, axis=1) == [5] * 8 + [230] * 2).all()
    assert np.array_equal(counts[0], counts[5])


def test_dominant_share_one_leaves_only_own_classes() -> None:
    counts = class_counts(LABELS, dominant(LABELS, 5, np.random.default_rng(0), dominant_share=1), 10)
    assert ((counts > 0).sum(axis=1) == 2).all()


def test_dominant_share_of_owners_over_clients_is_an_even_split() -> None:
    counts = class_counts(LABELS, dominant(LABELS, 5, np.random.default_rng(0), dominant_share=0.2), 10)
    assert (counts == 100).all()


@pytest.mark.parametrize(
    ("num_clients", "options", "message"),
    [
        (5, {"dominant_share": 0}, r"^partition\.dominant-share = 0: allowed is above 0"),
        (5, {"dominant_share": 1.01}, r"^partition\.dominant-share = 1.01: allowed"),
        (5, {"dominant_share": float("nan")}, r"^partition\.dominant-share = nan: allowed"),
        (3, {}, r"^partition\.classes-per-client = 2: allowed is 4 to 10"),
        (5, {"classes_per_client": 11}, r"^partition\.classes-per-client = 11: allowed is 2 to 10"),
        (2, {"classes_per_client": 6}, "dominant for all 2 clients, with nobody left for the other 8.00%"),
        (5, {"classes_per_client": 2.0}, "classes-per-client = 2.0"),
    ],
)
def test_dominant_refuses_what_cannot_be(num_clients: int, options: dict[str, float], message: str) -> None:
    with pytest.raises(PartitionError, match=message):
        dominant(LABELS, num_clients, np.random.default_rng(0), **options)  # pyright: ignore


def test_an_empty_client_is_refused() -> None:
    with pytest.raises(PartitionError, match="client 1 would hold none of the 100 samples"):
        dominant(np.repeat([0, 1], [99, 1]), 4, np.random.default_rng(0), classes_per_client=1, dominant_share=1)
