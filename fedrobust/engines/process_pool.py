"""The `processes` engine: a pool of forked processes on this machine, without Ray.

A server process loads PyTorch and the ClientApp once and forks each worker from itself, in milliseconds. Weights go
into shared memory once a round; a reply is read from its worker's. `process_worker` is the other side, `pool` has the
order.
"""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from time import monotonic

from flwr.app import ArrayRecord, Message, RecordDict

from fedrobust.config import RunConfig
from fedrobust.engines.plan import processes_supported
from fedrobust.engines.pool import PoolGrid, Task, WorkerDied, worker_environment
from fedrobust.engines.process_worker import Place, SharedMemory, read
from fedrobust.errors import ConfigError, RunFailed


def check_processes() -> None:
    """Raise ConfigError where the engine cannot start."""
    if not processes_supported():
        raise ConfigError("engine processes: needs Linux; use --engine local or ray")


@dataclass(eq=False)
class _Worker:
    """A forked process and the connection to it; its process id arrives with its first word."""

    connection: Connection
    pid: int = 0

    def learn_pid(self, seconds: float | None) -> bool:
        """Read the process id, waiting so long for it; return whether it is known."""
        with suppress(EOFError, OSError):
            if not self.pid and self.connection.poll(seconds):
                self.pid = self.connection.recv()
        return bool(self.pid)


class ProcessGrid(PoolGrid):
    """A grid of `workers.num` processes with `workers.threads` CPU threads each; with several GPUs each sees one."""

    def __init__(self, cfg: RunConfig, client_app: str) -> None:
        super().__init__(cfg)
        workers = cfg.workers
        self._devices = itertools.cycle(_devices(cfg))
        self._shared: list[SharedMemory] = []
        self._keys = itertools.count()
        self._server, theirs = socket.socketpair()
        environment = os.environ | worker_environment(workers.threads)
        module = "fedrobust.engines.process_worker"
        command = [sys.executable, "-P", "-m", module, str(theirs.fileno()), client_app]
        # a session of its own: Ctrl-C reaches the driver, which ends the workers
        self._process = subprocess.Popen(
            command, env=environment, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, start_new_session=True
        )
        theirs.close()
        try:
            for _ in range(workers.num):
                self._start()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        workers, self._workers, self._idle = self._workers, set(), []
        for worker in workers:
            self._stop(worker)
        self._server.close()
        self._process.kill()
        self._process.wait()
        self._free()

    def _launch(self) -> _Worker:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                socket.send_fds(self._server, [next(self._devices).encode()], [theirs.fileno()])
            except OSError as error:
                status = self._process.wait()
                raise RunFailed(
                    f"engine processes: the process that starts workers ended with status {status}"
                ) from error
        return _Worker(Connection(ours.detach()))

    def _stop(self, worker: _Worker) -> None:
        # a worker that has said nothing yet has nothing to do either: it ends when it finds its connection closed
        if worker.learn_pid(0):
            with suppress(ProcessLookupError):
                os.kill(worker.pid, signal.SIGKILL)
        worker.connection.close()

    def _free(self) -> None:
        for memory in self._shared:
            memory.close()
        self._shared = []

    def _store(self, records: Sequence[ArrayRecord]) -> list[tuple[str, Place]]:
        self._free()  # an earlier round's
        self._shared = [SharedMemory() for _ in records]
        pairs = zip(self._shared, records, strict=True)
        return [(str(next(self._keys)), memory.write(record)) for memory, record in pairs]

    def _give(self, task: Task) -> None:
        context = self.contexts[task.message.metadata.dst_node_id]
        with suppress(OSError):  # a worker that has died meanwhile is found so when its answer is waited for
            task.worker.connection.send((task.message, task.arrays, context))

    def _finished(self, running: Sequence[Task], seconds: float | None) -> Task | None:
        tasks = {task.worker.connection: task for task in running}
        end = None if seconds is None else monotonic() + seconds
        while ready := wait(list(tasks), None if end is None else max(end - monotonic(), 0.0)):
            task = tasks[ready[0]]  # type: ignore[index]
            if task.worker.pid or not task.worker.learn_pid(0):
                return task  # an answer, or the end
        return None

    def _outcome(self, task: Task) -> tuple[RecordDict, Message]:
        try:
            state, reply, places = task.worker.connection.recv()
            for name, place in places.items():
                reply.content[name] = read(place)
        except (EOFError, OSError) as error:
            raise WorkerDied("its process ended; was memory short?") from error
        return state, reply

    def _take(self, stored: Message) -> Message:
        return stored


def _devices(cfg: RunConfig) -> list[str]:
    """Return what workers see as CUDA_VISIBLE_DEVICES, in turn; "-" leaves it as it is."""
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    if cfg.device not in ("auto", "cuda"):
        return ["-"]
    if not named and cfg.workers.num_gpus:
        import torch

        named = [str(number) for number in range(torch.cuda.device_count())]
    return named if len(named) > 1 else ["-"]
