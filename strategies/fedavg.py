"""FedAvg (McMahan et al. 2017), and with adversarial clients FAT (Zizzo et al. 2020)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord

from fedrobust.engines.arrays import to_record
from strategies.base import FederatedStrategy
from strategies.guard import Update

Arrays = dict[str, np.ndarray]

BLOCK = 1 << 15  # elements whose float64 products stay in the cache


class WeightedMean:
    """The running mean sum_k w_k x_k / sum_k w_k, summed in float64 in the order of `add`.

    With one term the result is that term, bit for bit (w x and w x / w are exact in float64 for float32 x and
    integer w below 2^29). Integer arrays are averaged, rounded and stay integers.
    """

    def __init__(self, reference: Mapping[str, np.ndarray]) -> None:
        self._dtypes = {key: array.dtype for key, array in reference.items()}
        self._sums = {key: np.zeros(a.shape) for key, a in reference.items()}
        self.total = 0.0

    def add(self, arrays: Mapping[str, np.ndarray], weight: float) -> None:
        """Add one term; keys and shapes are the reference's (the guard has checked them)."""
        for key, value in arrays.items():
            total, terms = self._sums[key].reshape(-1), value.reshape(-1)
            for start in range(0, total.size, BLOCK):
                block = slice(start, start + BLOCK)
                total[block] += np.multiply(terms[block], weight, dtype=np.float64)
        self.total += weight

    def result(self) -> Arrays:
        """Return the mean, in the reference's dtypes, once: the sums are freed one by one, as they take twice the
        memory.

        Raises:
            ZeroDivisionError: nothing was added.
        """
        if not self.total:
            raise ZeroDivisionError("the mean of no updates")
        return {key: to_dtype(self._sums.pop(key) / self.total, dtype) for key, dtype in self._dtypes.items()}


def to_dtype(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Return `array` in `dtype`; integers are rounded, not truncated."""
    # an ufunc makes a scalar of an array without axes, such as batch norm's counter
    return np.asarray(np.rint(array) if dtype.kind in "iu" else array).astype(dtype)


class FedAvg(FederatedStrategy):
    """Federated averaging: w ← Σ_k n_k w_k / Σ_k n_k over the accepted clients, n_k the images client k trained on.

    McMahan et al. 2017 (arXiv 1602.05629), algorithm 1. With the objective `at` (the default here) it is FAT,
    Zizzo et al. 2020 (arXiv 2012.01791). With one client that holds all data it is centralised training.
    Deviation: summed in float64 as the replies come in, in ascending order of partition.
    """

    averages = True

    def weight(self, update: Update) -> float:
        return update.num_examples

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        mean = WeightedMean(self.reference)
        for update in self.accepted_updates(server_round, replies):
            mean.add(update.arrays, self.weight(update))
        if not mean.total:
            return None, None
        return to_record(mean.result()), MetricRecord({**self.means()})
