"""Small problems with a known shape."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fedrobust.convex.network import Lifted, PolynomialNetwork, lift
from fedrobust.convex.problem import Problem


@pytest.fixture(scope="session")
def blobs() -> Callable[..., tuple[Tensor, Tensor]]:
    """Samples of `num_classes` overlapping normal distributions, float64 [n, d]; labels."""

    def make(samples: int, dimension: int, num_classes: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        y = torch.arange(samples) % num_classes
        centres = 1.2 * torch.randn(num_classes, dimension, generator=generator, dtype=torch.float64)
        return centres[y] + torch.randn(samples, dimension, generator=generator, dtype=torch.float64), y

    return make


@pytest.fixture(scope="session")
def small(blobs: Callable[..., tuple[Tensor, Tensor]]) -> Problem:
    """Two classes in three dimensions."""
    x, y = blobs(30, 3)
    return Problem(x, y, radius=0.3, beta=0.02)


@pytest.fixture(scope="session")
def random_network() -> Callable[..., Lifted]:
    """A lifted network with random neurons of both signs."""

    def make(dimension: int, functions: int = 1, units: int = 6, seed: int = 0) -> Lifted:
        generator = torch.Generator().manual_seed(seed)
        directions = torch.randn(units, dimension, generator=generator, dtype=torch.float64)
        weights = 3 * torch.randn(functions, units, generator=generator, dtype=torch.float64)
        unit = directions / directions.norm(dim=1, keepdim=True)
        return lift(PolynomialNetwork(unit, weights))

    return make
