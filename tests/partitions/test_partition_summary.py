"""The summary's closed forms."""

import dataclasses

import numpy as np
import pytest

from partitions import (
    PartitionError,
    class_counts,
    class_priors,
    draw_pool,
    earth_movers_distance,
    iid,
    mix,
    summarise,
)

LABELS = np.array([0, 0, 1, 1, 2, 2, 3, 3])


def test_class_counts_and_priors() -> None:
    counts = class_counts(LABELS, [np.array([0, 1, 2]), np.array([7, 7])], 5)
    assert counts.dtype == np.int64
    assert counts.tolist() == [[2, 1, 0, 0, 0], [0, 0, 0, 2, 0]]
    assert np.allclose(class_priors(counts), [[2 / 3, 1 / 3, 0, 0, 0], [0, 0, 0, 1, 0]])


def test_emd_closed_forms() -> None:
    counts = np.array([[5, 5, 5, 5], [7, 0, 0, 0], [3, 3, 0, 0]])
    assert np.allclose(earth_movers_distance(counts, [10, 10, 10, 10]), [0, 2 * (1 - 1 / 4), 1])
    assert np.allclose(earth_movers_distance([[4, 0]], [0.0, 1.0]), [2])


def test_summary_of_two_clients_and_a_pool() -> None:
    own = [np.array([0, 1]), np.array([2, 4])]
    pool = np.array([6, 7])
    mixed = [np.array([0, 1, 6, 7]), np.array([2, 4, 6])]
    summary = summarise(LABELS, own, mixed, pool, num_classes=4, image_bytes=3072)
    assert summary.own_sizes.tolist() == [2, 2]
    assert summary.sizes.tolist() == [4, 3]
    assert summary.class_counts.tolist() == [[2, 0, 0, 2], [0, 1, 1, 1]]
    assert np.allclose(summary.emd_before, [1.5, 1])
    assert np.allclose(summary.emd, [1, 0.5])
    assert (summary.mean_emd, summary.max_emd) == (pytest.approx(0.75), pytest.approx(1))
    assert summary.pool_size == 2
    assert summary.pool_counts.tolist() == [2, 1]
    assert summary.overlap == pytest.approx((1 / 4 + 1 / 3) / 2)
    assert summary.bytes_moved == 3 * 3072
    assert summary.rows()[1] == {
        "client": 1,
        "own_samples": 2,
        "samples": 3,
        "pool_samples": 1,
        "classes": 3,
        "emd_before": pytest.approx(1),
        "emd": pytest.approx(0.5),
        "class_0": 0,
        "class_1": 1,
        "class_2": 1,
        "class_3": 1,
    }
    assert {type(value) for row in summary.rows() for value in row.values()} == {int, float}
    with pytest.raises(dataclasses.FrozenInstanceError):
        summary.overlap = 0.0  # pyright: ignore


def test_without_a_pool_nothing_moves_and_nothing_overlaps() -> None:
    own = [np.arange(4), np.arange(4, 8)]
    summary = summarise(LABELS, own, own, np.empty(0, dtype=np.int64), 4, 3072)
    assert (summary.pool_size, summary.bytes_moved, summary.overlap) == (0, 0, 0.0)
    assert np.array_equal(summary.emd, summary.emd_before)


def test_repetition_within_a_client_is_no_overlap() -> None:
    own = [np.arange(4), np.arange(4, 8)]
    control = [np.array([0, 0, 1, 2, 3]), np.array([4, 5, 6, 7, 7])]
    summary = summarise(LABELS, own, control, np.empty(0, dtype=np.int64), 4, 1)
    assert summary.overlap == 0
    assert summary.sizes.tolist() == [5, 5]


def test_a_pool_lowers_the_skew_of_everyone() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(10), 100)
    pool, rest = draw_pool(labels, 0.2, rng)
    own = [rest[labels[rest] == number] for number in range(10)]
    for mode in ("add", "replace"):
        mixed = [mix(part, pool, mode=mode, fraction=0.2, rng=rng) for part in own]
        summary = summarise(labels, own, mixed, pool, 10, 3072)
        assert np.allclose(summary.emd_before, 1.8)
        assert (summary.emd < summary.emd_before).all()
    control = [mix(part, pool, mode="control", fraction=0.2, rng=rng) for part in own]
    assert np.allclose(summarise(labels, own, control, pool, 10, 3072).emd, 1.8)


def test_one_client_with_everything_is_the_population() -> None:
    parts = iid(LABELS, 1, np.random.default_rng(0))
    assert summarise(LABELS, parts, parts, np.empty(0, dtype=np.int64), 4, 1).max_emd == 0


@pytest.mark.parametrize(
    ("own", "num_classes", "image_bytes", "message"),
    [
        ([], 4, 1, "^own, mixed: 0 and 1 clients"),
        ([[0], [1]], 4, 1, "^own, mixed: 2 and 1 clients"),
        ([[0]], 3, 1, "^num_classes = 3: allowed is above 3"),
        ([[0]], 4, -1, "^image_bytes = -1"),
        ([[]], 4, 1, "client 0 holds no samples"),
    ],
)
def test_summary_refuses(own: list[list[int]], num_classes: int, image_bytes: int, message: str) -> None:
    parts = [np.array(part, dtype=np.int64) for part in own]
    with pytest.raises(PartitionError, match=message):
        summarise(LABELS, parts, [np.array([0])], np.array([1]), num_classes, image_bytes)
