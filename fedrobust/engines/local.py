"""The `local` engine: clients one after another in this process; no Ray, no network, and a debugger works as usual."""

from __future__ import annotations

from collections.abc import Iterator
from time import monotonic

from flwr.app import Message
from flwr.clientapp import ClientApp

from fedrobust.config import RunConfig
from fedrobust.engines.grid import SimulationGrid, handle, private_copy
from fedrobust.hardware.process import threads


class LocalGrid(SimulationGrid):
    """A grid that runs the ClientApp in this process, with `workers.threads` CPU threads."""

    def __init__(self, cfg: RunConfig, client_app: ClientApp) -> None:
        super().__init__(cfg)
        self._client_app = client_app
        self._threads = cfg.workers.threads

    def _exchange(self, messages: list[Message], timeout: float | None) -> Iterator[Message]:
        deadline = None if timeout is None else monotonic() + timeout
        for message in messages:
            if deadline is not None and monotonic() > deadline:
                return
            context = self.contexts[message.metadata.dst_node_id]
            message.content = private_copy(message.content)
            with threads(self._threads):
                reply = handle(self._client_app, message, context)
            yield reply
