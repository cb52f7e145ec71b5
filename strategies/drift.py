"""Client drift: how far clients and server move in a round, and how far the clients agree."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

Arrays = Mapping[str, np.ndarray]

STATISTICS = ("running_mean", "running_var")  # batch norm's, as PyTorch calls them
BLOCK = 1 << 13  # elements: they stay in the cache, and BLAS takes one thread, hence the same order of sums everywhere


class Drift:
    """The drift of one round from the global model w: Δ_k = w_k − w of the accepted updates, weighted by p_k with Σ p_k
    = 1.

    Norms are l2 over all floating-point arrays of the model except the running statistics of batch norm: no gradient
    moves them, and with large activations they would dominate the norm. One pass per update, and no update is kept: Σ
    p_k Δ_k = Δ̄, so the mean cosine of the updates with Δ̄, weighted by p_k ‖Δ_k‖, is ‖Δ̄‖ / Σ p_k ‖Δ_k‖.
    """

    def __init__(self, reference: Arrays) -> None:
        self._reference = {
            key: array for key, array in reference.items() if array.dtype.kind == "f" and not key.endswith(STATISTICS)
        }
        self._buffers = {wide: np.empty(BLOCK, np.float64 if wide else np.float32) for wide in (False, True)}
        self._norms = self._weights = 0.0

    def add(self, arrays: Arrays, weight: float) -> float:
        """Add one update; return its ‖Δ_k‖."""
        norm = self._distance(arrays)
        self._norms += weight * norm
        self._weights += weight
        return norm

    def of_round(self, after: Arrays, *, averaged: bool) -> dict[str, float]:
        """Return the round's columns, with the next model `after`.

        `update_norm` = Σ p_k ‖Δ_k‖; `step_norm` = ‖after − w‖; where `after` is the mean of the updates also
        `cosine`, from 0 (they cancel) to 1 (they agree), left out if no client moved.
        """
        step = self._distance(after)
        if not self._weights:
            return {"step_norm": step}
        mean = self._norms / self._weights
        columns = {"update_norm": mean, "step_norm": step}
        if averaged and mean:
            columns["cosine"] = min(1.0, step / mean)  # above 1 by rounding only
        return columns

    def _distance(self, arrays: Arrays) -> float:
        """Compute ‖arrays − w‖; the guard has checked the range of both, so that no square overflows."""
        squares = 0.0
        for key, reference in self._reference.items():
            buffer = self._buffers[reference.itemsize > 4]
            start, end = reference.reshape(-1), arrays[key].reshape(-1)
            for at in range(0, start.size, BLOCK):
                block = end[at : at + BLOCK]
                step = np.subtract(block, start[at : at + BLOCK], out=buffer[: block.size], dtype=buffer.dtype)
                squares += float(np.dot(step, step))
        return math.sqrt(squares)
