"""The shared pool: exact sizes, balance, and the three ways to mix it in."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partitions import MODES, PartitionError, Rng, client_share, draw_pool, mix

LABELS = np.random.default_rng(5).permutation(np.repeat(np.arange(10), 450))
OWN = np.arange(100)
SHARED = np.arange(1000, 1060)


def rng() -> np.random.Generator:
    """The same stream for each call."""
    return np.random.default_rng(0)


@pytest.mark.parametrize(("fraction", "size"), [(0, 0), (0.0, 0), (0.1, 450), (0.4, 1800), (0.1235, 556)])
@pytest.mark.parametrize("generator", [np.random.default_rng, np.random.RandomState])
def test_pool_size_is_exact_and_balanced(fraction: float, size: int, generator: Callable[[int], Rng]) -> None:
    pool, rest = draw_pool(LABELS, fraction, generator(1))
    assert len(pool) == size
    assert pool.dtype == rest.dtype == np.int64
    assert np.ptp(np.bincount(LABELS[pool], minlength=10)) <= 1
    assert (np.diff(pool) > 0).all()
    assert (np.diff(rest) > 0).all()
    assert np.array_equal(np.union1d(pool, rest), np.arange(4500))
    assert len(pool) + len(rest) == 4500


@settings(deadline=None)
@given(fraction=st.floats(0, 0.4), share=st.floats(0, 1, exclude_min=True), seed=st.integers(0, 1000))
def test_each_client_gets_a_balanced_part(fraction: float, share: float, seed: int) -> None:
    generator = np.random.default_rng(seed)
    pool, _ = draw_pool(LABELS, fraction, generator)
    part = client_share(pool, LABELS, share, generator)
    assert len(pool) == round(fraction * 4500)
    assert len(part) == round(share * len(pool))
    assert np.isin(part, pool).all()
    assert (np.diff(part) > 0).all()
    assert np.ptp(np.bincount(LABELS[part], minlength=10)) <= 1


def test_share_one_is_the_pool_and_other_shares_differ_between_clients() -> None:
    generator = rng()
    pool, _ = draw_pool(LABELS, 0.1, generator)
    assert np.array_equal(client_share(pool, LABELS, 1, generator), pool)
    one, other = (client_share(pool, LABELS, 0.5, generator) for _ in range(2))
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("fraction", [0.41, -0.01, 1, float("nan"), float("inf"), True, "0.1"])
def test_fraction_out_of_range_is_refused(fraction: float) -> None:
    message = rf"^pool\.fraction = {fraction}: allowed is 0 to 0\.4"
    with pytest.raises(PartitionError, match=message):
        draw_pool(LABELS, fraction, rng())
    with pytest.raises(PartitionError, match=message):
        mix(OWN, SHARED, mode="add", fraction=fraction, rng=rng())


@pytest.mark.parametrize("share", [0, -0.5, 1.01, float("nan")])
def test_share_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(PartitionError, match=rf"^pool\.share = {share}: allowed is above 0"):
        client_share(SHARED, LABELS, share, rng())


def test_a_class_with_too_few_samples_is_named() -> None:
    labels = np.repeat([0, 1, 7], [500, 400, 100])
    with pytest.raises(PartitionError, match=r"pool\.fraction = 0\.4: class 7 has 100 samples.* take 134"):
        draw_pool(labels, 0.4, rng())
    pool, _ = draw_pool(labels, 0.3, rng())
    assert np.bincount(labels[pool])[[0, 1, 7]].tolist() == [100, 100, 100]


def test_a_pool_as_large_as_what_is_left_is_refused() -> None:
    pool, rest = draw_pool(LABELS[:2500], 0.4, rng(), whole=4500)
    assert (len(pool), len(rest)) == (1800, 700)
    with pytest.raises(PartitionError, match=r"^pool\.fraction = 0\.4: 1800 of 4500 .* 1800 are left beside the val"):
        draw_pool(LABELS[:1800], 0.4, rng(), whole=4500)


@pytest.mark.parametrize("seed", range(8))
def test_odd_samples_come_from_classes_that_can_spare_them(seed: int) -> None:
    labels = np.repeat([0, 1, 2], [10, 10, 2])
    pool, _ = draw_pool(labels, 0.364, np.random.default_rng(seed))
    assert np.bincount(labels[pool]).tolist() == [3, 3, 2]


@pytest.mark.parametrize("mode", MODES)
def test_fraction_zero_leaves_own_unchanged(mode: str) -> None:
    assert np.array_equal(mix(OWN, SHARED, mode=mode, fraction=0, rng=rng()), OWN)
    assert np.array_equal(mix(OWN, SHARED[:0], mode=mode, fraction=0.0, rng=rng()), OWN)


def test_add_is_own_and_shared() -> None:
    assert np.array_equal(mix(OWN, SHARED, mode="add", fraction=0.4, rng=rng()), np.append(OWN, SHARED))


@given(fraction=st.floats(0, 0.4), size=st.integers(1, 150))
def test_replace_keeps_the_size(fraction: float, size: int) -> None:
    own = np.arange(size)
    mixed = mix(own, SHARED, mode="replace", fraction=fraction, rng=rng())
    assert len(mixed) == size == len(np.unique(mixed))
    assert np.isin(mixed, SHARED).sum() == round(fraction * size)


def test_replace_refuses_a_part_too_small() -> None:
    with pytest.raises(PartitionError, match=r"replace 40 of 100 .* only 39; raise pool\.share"):
        mix(OWN, SHARED[:39], mode="replace", fraction=0.4, rng=rng())


def test_control_draws_its_extra_from_own_labels() -> None:
    own = np.repeat(np.arange(100), 1)
    mixed = mix(own, np.arange(1000, 11000), mode="control", fraction=0.4, rng=rng())
    assert len(mixed) == 10_100
    assert mixed.dtype == np.int64
    assert (np.diff(mixed) >= 0).all()
    counts = np.bincount(mixed)
    assert len(counts) == 100
    assert counts.min() >= 1
    assert abs(counts[:30].sum() / 10_100 - 0.3) < 0.02  # its own label distribution, up to noise


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(PartitionError, match=r"^pool\.mode = replce: allowed is add, rep"):
        mix(OWN, SHARED, mode="replce", fraction=0.1, rng=rng())


def test_an_empty_client_is_refused() -> None:
    with pytest.raises(PartitionError, match=r"^own: the client holds no samples"):
        mix(OWN[:0], SHARED, mode="add", fraction=0.1, rng=rng())
