"""The guard: requirements on a reply before it may change the global model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from flwr.app import Message

from fedrobust.engines.arrays import decode

MAX_WEIGHT = 1e9  # images of one client; more is a mistake or an attack
MAX_VALUE = 1e15  # of anything sent: squared and summed over a model it still fits float32, rounded it fits int64
WEIGHT_KEY = "num-examples"

Arrays = dict[str, np.ndarray]


class Rejected(Exception):
    """The reason why a reply is not used: one line, for the record."""


@dataclass(frozen=True)
class Update:
    """An accepted reply: decoded arrays, its number of images, its metrics."""

    partition: int
    reply: Message
    arrays: Arrays
    num_examples: float
    metrics: dict[str, int | float]


def admit(partition: int, reply: Message, reference: Mapping[str, np.ndarray]) -> Update:
    """Check a training reply against the global model `reference`.

    It must hold one ArrayRecord with exactly the reference's keys, shapes and dtypes and finite values, and one
    MetricRecord whose "num-examples" is a number in (0, 1e9]. No value may be NaN, Inf or beyond 1e15, so that no mean,
    median or distance of accepted updates can overflow. Arrays are decoded without pickle.

    Raises:
        Rejected: the reply is not acceptable; the message says why. Nothing is ever broadcast, cast or repaired.
    """
    num_examples, metrics = admit_metrics(reply)
    if len(reply.content.array_records) != 1:
        raise Rejected(f"{len(reply.content.array_records)} array records, expected 1")
    (record,) = reply.content.array_records.values()
    if missing := sorted(set(reference) - set(record)):
        raise Rejected(f"array {missing[0]!r} is missing")
    if extra := sorted(set(record) - set(reference)):
        raise Rejected(f"unexpected array {extra[0]!r}")
    arrays = {}
    for key, expected in reference.items():
        try:
            array = decode(record[key])
        except Exception as error:
            raise Rejected(f"array {key!r} cannot be read: {error}") from error
        if array.shape != expected.shape:
            raise Rejected(f"array {key!r} has shape {array.shape}, expected {expected.shape}")
        if array.dtype != expected.dtype:
            raise Rejected(f"array {key!r} has dtype {array.dtype}, expected {expected.dtype}")
        if not _all_fit(array):
            raise Rejected(f"array {key!r} holds NaN, Inf or a value beyond {MAX_VALUE:g}")
        arrays[key] = array
    return Update(partition, reply, arrays, num_examples, metrics)


def admit_metrics(reply: Message, *, allow_empty: bool = False) -> tuple[float, dict[str, int | float]]:
    """Return the number of images and the scalar metrics of a reply; 0 images only if `allow_empty`."""
    if len(reply.content.metric_records) != 1:
        raise Rejected(f"{len(reply.content.metric_records)} metric records, expected 1")
    (record,) = reply.content.metric_records.values()
    metrics = {key: value for key, value in record.items() if isinstance(value, int | float)}
    weight = metrics.pop(WEIGHT_KEY, None)
    if weight is None:
        raise Rejected(f"metric {WEIGHT_KEY!r} is missing")
    if not (0 < weight <= MAX_WEIGHT or (weight == 0 and allow_empty)):
        raise Rejected(f"{WEIGHT_KEY} = {weight}: must be a number in (0, {MAX_WEIGHT:g}]")
    if bad := [key for key, value in metrics.items() if not _fits(value)]:
        raise Rejected(f"metric {bad[0]!r} is NaN, Inf or beyond {MAX_VALUE:g}")
    return float(weight), metrics


def _all_fit(array: np.ndarray) -> bool:
    """Return whether all values are finite and small enough to average."""
    if array.dtype.kind == "f":
        # one pass instead of two in the usual case: no value is larger than the root of their sum of squares
        flat = array.reshape(-1)
        with np.errstate(over="ignore", invalid="ignore"):
            if np.dot(flat, flat) <= MAX_VALUE**2:
                return True
    return _fits(array.min(initial=0)) and _fits(array.max(initial=0))


def _fits(value: float | np.number) -> bool:
    """Return whether a number is finite and small enough to average."""
    return abs(value.item() if isinstance(value, np.generic) else value) <= MAX_VALUE
