"""Averaging as replies come in: one sum, never all replies at once."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from fedrobust.engines.arrays import as_tensor

Arrays = dict[str, np.ndarray]


class WeightedMean:
    """sum_k w_k x_k / sum_k w_k, summed in float64 in the order of `add`.

    With one term the result is that term, bit for bit (w x and w x / w are exact in float64 for float32 x and
    integer w below 2^29). Integer arrays are averaged, rounded and stay integers.
    """

    def __init__(self, reference: Mapping[str, np.ndarray]) -> None:
        self._dtypes = {key: array.dtype for key, array in reference.items()}
        self._sums = {key: torch.zeros(a.shape, dtype=torch.float64) for key, a in reference.items()}
        self.total = 0.0

    def add(self, arrays: Mapping[str, np.ndarray], weight: float) -> None:
        """Add one term; keys and shapes are the reference's (the guard has seen to it)."""
        for key, value in arrays.items():
            self._sums[key].add_(as_tensor(value), alpha=weight)
        self.total += weight

    def result(self) -> Arrays:
        """The mean, in the reference's dtypes. Raises ZeroDivisionError when nothing was added."""
        if not self.total:
            raise ZeroDivisionError("the mean of no updates")
        return {key: to_dtype(total.div_(self.total).numpy(), self._dtypes[key]) for key, total in self._sums.items()}


def to_dtype(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """`array` in `dtype`; integers are rounded, not cut off."""
    # an ufunc makes a scalar of an array without axes, such as batch norm's counter
    return np.asarray(np.rint(array) if dtype.kind in "iu" else array).astype(dtype)
