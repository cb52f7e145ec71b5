"""Dirichlet proportions that stay proportions where the sampler's floats give out."""

import numpy as np
from numpy.typing import NDArray

from partitions.contracts import Rng


def dirichlet_proportions(rng: Rng, concentration: float, num_clients: int, size: int) -> NDArray[np.float64]:
    """`size` draws of Dir(concentration, ..., concentration) over the clients. ``-> [size, num_clients]``.

    Rows are finite, non-negative and sum to 1. NumPy divides gamma draws by their sum. Below a concentration
    of about 0.001 all of them may underflow (`RandomState` then returns NaN), near the largest float they
    overflow (a row of zeros). Such a row is replaced by the distribution's own limit: all on one client drawn
    uniformly for concentration -> 0, equal parts for concentration -> infinity. Sound rows, and the random
    stream as long as all rows are sound, are NumPy's.
    """
    drawn = np.asarray(rng.dirichlet(np.full(num_clients, float(concentration)), size), dtype=np.float64)
    broken = np.flatnonzero(~(np.abs(drawn.sum(axis=1) - 1) < 1e-6))  # a comparison with NaN is False
    if broken.size and concentration < 1:
        drawn[broken] = 0.0
        drawn[broken, rng.choice(num_clients, broken.size)] = 1.0
    elif broken.size:
        drawn[broken] = 1 / num_clients
    return drawn
