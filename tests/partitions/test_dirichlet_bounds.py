"""Both Dirichlet splits come to an end: bounded draws, and refusals that cost none."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from partitions import Indices, PartitionError, dirichlet, dirichlet_balanced

CIFAR_LABELS = np.repeat(np.arange(10), 5000)
BOTH = pytest.mark.parametrize("partition", [dirichlet, dirichlet_balanced])


class CountingGenerator(np.random.Generator):
    """Counts the Dirichlet draws, the only work that repeats."""

    draws = 0

    def dirichlet(self, *args: object, **kwargs: object) -> np.ndarray:
        """One more."""
        self.draws += 1
        return super().dirichlet(*args, **kwargs)  # pyright: ignore


@BOTH
@pytest.mark.parametrize("concentration", [0.01, 0.1, 1, 10, 100])
@pytest.mark.parametrize("min_samples", [1, 10, 50])
def test_a_thousand_clients_end(
    partition: Callable[..., list[Indices]], concentration: float, min_samples: int
) -> None:
    retries = 20
    rng = CountingGenerator(np.random.PCG64(0))
    refusal = ""
    try:
        parts = partition(
            CIFAR_LABELS, 1000, rng, concentration=concentration, min_samples=min_samples, max_retries=retries
        )
        assert min(map(len, parts)) >= min_samples
    except PartitionError as error:
        refusal = str(error)
    opening = f"partition.min-samples = {min_samples}: in {retries} draws of Dir({concentration:g}) the smallest"
    assert not refusal or refusal.startswith(opening)
    per_draw = 1 if partition is dirichlet else 2 * 10  # balanced: each class, perhaps once more over open clients
    assert 1 <= rng.draws <= retries * per_draw


def test_the_default_bound_ends_too() -> None:
    rng = CountingGenerator(np.random.PCG64(0))
    with pytest.raises(PartitionError, match=r"smallest of 1000 clients held at most 0; raise partition.conc"):
        dirichlet(CIFAR_LABELS, 1000, rng, concentration=0.01)
    assert rng.draws == 1000


@BOTH
@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, -math.inf, True, "0.1"])
def test_impossible_concentration_is_refused(partition: Callable[..., list[Indices]], value: float) -> None:
    with pytest.raises(PartitionError, match=r"^partition\.concentration = .*a finite number above 0"):
        partition(CIFAR_LABELS, 5, np.random.default_rng(0), concentration=value)


@BOTH
@pytest.mark.parametrize("value", [0, 10_001, 2.5])
def test_impossible_minimum_is_refused_at_once(partition: Callable[..., list[Indices]], value: int) -> None:
    rng = CountingGenerator(np.random.PCG64(0))
    with pytest.raises(PartitionError, match=r"^partition\.min-samples = .*1 to 10000 \(50000 samples over 5"):
        partition(CIFAR_LABELS, 5, rng, min_samples=value)
    assert rng.draws == 0
