"""The guard: what a reply must be before it may touch the global model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from flwr.app import Message

MAX_WEIGHT = 1e9  # images of one client; more is a mistake or an attack
WEIGHT_KEY = "num-examples"

Arrays = dict[str, np.ndarray]


class Rejected(Exception):
    """Why a reply is not used: one line, for the record."""


@dataclass(frozen=True)
class Update:
    """An admitted reply: decoded arrays, its number of images, its metrics."""

    partition: int
    reply: Message
    arrays: Arrays
    num_examples: float
    metrics: dict[str, int | float]


def admit(partition: int, reply: Message, reference: Mapping[str, np.ndarray]) -> Update:
    """Check a training reply against the global model `reference`.

    It must hold one ArrayRecord with exactly the reference's keys, shapes and dtypes and finite values, and one
    MetricRecord whose "num-examples" is a finite number in (0, 1e9]. Arrays are decoded without pickle.

    Raises:
        Rejected: with what is wrong; nothing is ever broadcast, cast or repaired.
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
            array = record[key].numpy()
        except Exception as error:
            raise Rejected(f"array {key!r} cannot be read: {error}") from error
        if array.shape != expected.shape:
            raise Rejected(f"array {key!r} has shape {array.shape}, expected {expected.shape}")
        if array.dtype != expected.dtype:
            raise Rejected(f"array {key!r} has dtype {array.dtype}, expected {expected.dtype}")
        # a float64 sum of float32 values cannot overflow, and NaN or Inf always shows in it
        if array.dtype.kind == "f" and not np.isfinite(np.sum(array, dtype=np.float64)):
            raise Rejected(f"array {key!r} holds NaN or Inf")
        arrays[key] = array
    return Update(partition, reply, arrays, num_examples, metrics)


def admit_metrics(reply: Message, *, allow_empty: bool = False) -> tuple[float, dict[str, int | float]]:
    """The number of images and the scalar metrics of a reply; 0 images only where `allow_empty`."""
    if len(reply.content.metric_records) != 1:
        raise Rejected(f"{len(reply.content.metric_records)} metric records, expected 1")
    (record,) = reply.content.metric_records.values()
    metrics = {key: value for key, value in record.items() if isinstance(value, int | float)}
    weight = metrics.pop(WEIGHT_KEY, None)
    if weight is None:
        raise Rejected(f"metric {WEIGHT_KEY!r} is missing")
    if not math.isfinite(weight) or weight > MAX_WEIGHT or weight < 0 or (weight == 0 and not allow_empty):
        raise Rejected(f"{WEIGHT_KEY} = {weight}: must be a number in (0, {MAX_WEIGHT:g}]")
    return float(weight), metrics
