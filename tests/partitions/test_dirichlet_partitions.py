"""Both Dirichlet splits: published numbers and limits."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from partitions import (
    Indices,
    Rng,
    class_counts,
    dirichlet,
    dirichlet_balanced,
    earth_movers_distance,
)
from partitions.assembly import dirichlet_proportions

CIFAR_LABELS = np.repeat(np.arange(10), 5000)
BOTH = pytest.mark.parametrize("partition", [dirichlet, dirichlet_balanced])
BOTH_GENERATORS = pytest.mark.parametrize("generator", [np.random.default_rng, np.random.RandomState])


def published_rule(labels: Indices, num_clients: int, concentration: float, rng: Rng) -> list[list[int]]:
    """CalFAT's loop, sample by sample: slow, unguarded, and what ours has to equal."""
    while True:
        held: list[list[int]] = [[] for _ in range(num_clients)]
        for number in range(labels.max() + 1):
            indices = np.where(labels == number)[0]
            rng.shuffle(indices)
            drawn = rng.dirichlet([concentration] * num_clients)
            kept = np.array(
                [p if len(h) < len(labels) / num_clients else 0.0 for p, h in zip(drawn, held, strict=True)]
            )
            cuts = (np.cumsum(kept / kept.sum()) * len(indices)).astype(int)[:-1]
            for client, piece in zip(held, np.split(indices, cuts), strict=True):
                client.extend(piece.tolist())
        if min(map(len, held)) >= 10:
            return [sorted(client) for client in held]


def test_balanced_gives_calfat_sizes() -> None:
    parts = dirichlet_balanced(CIFAR_LABELS, 5, np.random.RandomState(2021), concentration=0.1)
    assert [len(part) for part in parts] == [4418, 14309, 12312, 7479, 11482]


@BOTH_GENERATORS
@pytest.mark.parametrize("seed", range(5))
def test_balanced_equals_the_published_rule(generator: Callable[[int], Rng], seed: int) -> None:
    labels = np.random.default_rng(seed).integers(0, 7, 600)
    parts = dirichlet_balanced(labels, 6, generator(seed), concentration=0.2)
    assert [part.tolist() for part in parts] == published_rule(labels, 6, 0.2, generator(seed))


@BOTH
def test_infinite_concentration_is_iid(partition: Callable[..., list[Indices]]) -> None:
    parts = partition(CIFAR_LABELS, 10, np.random.default_rng(0), concentration=1e12)
    assert all(abs(len(part) - 5000) <= 10 for part in parts)
    emd = earth_movers_distance(class_counts(CIFAR_LABELS, parts, 10), np.full(10, 5000))
    assert emd.max() < 0.005


@BOTH
def test_skew_falls_as_concentration_grows(partition: Callable[..., list[Indices]]) -> None:
    emd = [
        earth_movers_distance(
            class_counts(CIFAR_LABELS, partition(CIFAR_LABELS, 5, np.random.default_rng(7), concentration=value), 10),
            np.full(10, 5000),
        ).mean()
        for value in (0.05, 0.5, 5.0, 500.0)
    ]
    assert emd == sorted(emd, reverse=True)


@BOTH_GENERATORS
def test_zero_concentration_gives_each_class_to_one_client(generator: Callable[[int], Rng]) -> None:
    parts = dirichlet(CIFAR_LABELS, 3, generator(1), concentration=1e-12)
    counts = class_counts(CIFAR_LABELS, parts, 10)
    assert ((counts > 0).sum(axis=0) == 1).all()


@BOTH_GENERATORS
@settings(max_examples=50, deadline=None)
@given(exponent=st.floats(-300, 308.2), num_clients=st.integers(1, 30), seed=st.integers(0, 1000))
@example(exponent=-300, num_clients=5, seed=0)
@example(exponent=308.2, num_clients=5, seed=0)
def test_proportions_are_never_nan(
    generator: Callable[[int], Rng], exponent: float, num_clients: int, seed: int
) -> None:
    drawn = dirichlet_proportions(generator(seed), 10.0**exponent, num_clients, 8)
    assert drawn.shape == (8, num_clients)
    assert (drawn >= 0).all()
    assert np.allclose(drawn.sum(axis=1), 1)


@BOTH
@BOTH_GENERATORS
@pytest.mark.parametrize("concentration", [1e-300, 1e-5, 1e300])
def test_degenerate_draws_still_split(
    partition: Callable[..., list[Indices]], generator: Callable[[int], Rng], concentration: float
) -> None:
    labels = np.repeat(np.arange(20), 10)
    parts = partition(labels, 3, generator(3), concentration=concentration)
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(200))
