"""Checks of samples before training or certification: finite numbers, and a label for each row."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from fedrobust.errors import ConfigError, DataError

logger = logging.getLogger(__name__)


def checked_labels(x: Tensor, y: Tensor, num_classes: int, name: str = "samples") -> Tensor:
    """Return the labels y [n] of the rows x [n, d] as classes 0 .. K − 1, int64; −1 and 1 become 0 and 1, with a line
    in the log.

    Raises:
        DataError: x is not a table, the numbers of labels and rows differ, NaN or Inf, or a label that is not a class.
    """
    if x.ndim != 2 or y.ndim != 1 or len(x) != len(y):
        raise DataError(
            f"{name}: rows {list(x.shape)} with labels {list(y.shape)}; expected [n, d] and [n], a label for each row"
        )
    if not x.isfinite().all():
        row, column = (~x.isfinite()).nonzero()[0].tolist()
        raise DataError(f"{name}: NaN or Inf in row {row}, column {column}; numbers only")
    classes = y.to(torch.int64)
    if num_classes == 2 and bool((classes == -1).any()) and bool((classes.abs() == 1).all()):
        logger.warning("%s: labels -1 and 1 are taken as classes 0 and 1", name)
        return classes.clamp(min=0)
    wrong = ((classes < 0) | (classes >= num_classes) | (classes != y)).nonzero().flatten().tolist()
    if wrong:
        other = ", or -1 and 1" if num_classes == 2 else ""
        raise DataError(
            f"{name}: label {y[wrong[0]].item():g} in row {wrong[0]}; allowed: 0 to {num_classes - 1}{other}"
        )
    return classes


def check_weights(radius: float, beta: float) -> None:
    """Raise ConfigError unless radius is a number ≥ 0 and beta one above 0: with beta = 0 no optimum is attained."""
    if not 0 <= radius < float("inf"):
        raise ConfigError(f"radius = {radius}: must be a number of at least 0")
    if not 0 < beta < float("inf"):
        raise ConfigError(f"beta = {beta}: must be a number above 0")
