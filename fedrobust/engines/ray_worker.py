"""A worker of the `ray` engine, and the transport of arrays: their bytes beside the pickle, not copied into it."""

from __future__ import annotations

from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, RecordDict

from fedrobust.engines.grid import handle
from fedrobust.engines.pool import take_arrays
from fedrobust.engines.ray_cluster import ray

Packed = dict[str, tuple[str, tuple[int, ...], str, np.ndarray]]
"""ArrayRecord as plain data: key → (dtype, shape, type, bytes)."""


class Worker:
    """A Ray actor: the ClientApp, loaded once, and the weights of the current round, fetched once."""

    def __init__(self, client_app: str) -> None:
        from fedrobust.config.registry import load_path

        self._app = load_path(client_app)
        self._fetched: dict[str, ArrayRecord] = {}

    def handle(
        self, message: Message, arrays: dict[str, list[ray.ObjectRef[Any]]], context: Context
    ) -> tuple[RecordDict, tuple[Message, dict[str, Packed]]]:
        """Return the client's new state, and the reply to a message whose array records lie in the object store."""
        self._fetch([ref for (ref,) in arrays.values()])
        for name, (ref,) in arrays.items():
            message.content[name] = ArrayRecord(dict(self._fetched[ref.hex()]))
        reply = handle(self._app, message, context)
        return context.state, (reply, {name: pack(record) for name, record in take_arrays(reply).items()})

    def _fetch(self, refs: list[ray.ObjectRef[Any]]) -> None:
        """Fetch these records and drop those of an earlier round first, so that both are never held."""
        keep = {ref.hex() for ref in refs}
        self._fetched = {key: record for key, record in self._fetched.items() if key in keep}
        for ref in refs:
            if ref.hex() not in self._fetched:
                self._fetched[ref.hex()] = unpack(ray.get(ref))


def pack(record: ArrayRecord) -> Packed:
    return {key: (a.dtype, a.shape, a.stype, np.frombuffer(a.data, np.uint8)) for key, a in record.items()}


def unpack(packed: Packed) -> ArrayRecord:
    """Return the record of `pack`, with bytes of its own: nothing in the object store is held."""
    return ArrayRecord({key: Array(d, shape, kind, data.tobytes()) for key, (d, shape, kind, data) in packed.items()})
