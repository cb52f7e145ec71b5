"""The `ray` engine: a pool of Ray actors, on this machine or on a cluster.

Differences to Flower's own simulation engine: the global weights go into the object store once per round and into each
worker once, not once per client; and what `pool` says.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from flwr.app import ArrayRecord, Message, RecordDict

from fedrobust.config import RunConfig
from fedrobust.engines.pool import PoolGrid, Task, TaskFailed, WorkerDied, worker_environment
from fedrobust.engines.ray_cluster import (
    RayActorError,
    RayError,
    WorkerCrashedError,
    check_room,
    ray,
    start_ray,
    stop_ray,
)
from fedrobust.engines.ray_worker import Worker, pack, unpack


class RayGrid(PoolGrid):
    """A grid of `workers.num` actors with `workers.threads` CPU threads and `workers.num-gpus` GPUs each."""

    def __init__(self, cfg: RunConfig, client_app: str) -> None:
        super().__init__(cfg)
        workers = cfg.workers
        self._owns_ray = start_ray(workers.address, workers.num * workers.threads)
        environment = worker_environment(workers.threads)
        self._actor_class = ray.remote(Worker).options(
            num_cpus=workers.threads, num_gpus=workers.num_gpus, runtime_env={"env_vars": environment}
        )
        self._client_app = client_app
        try:
            check_room(cfg)
            for _ in range(workers.num):
                self._start()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        actors, self._workers, self._idle = self._workers, set(), []
        if self._owns_ray:  # and with it go the actors
            stop_ray()
            self._owns_ray = False
            return
        for actor in actors:
            self._stop(actor)

    def _launch(self) -> Any:
        return self._actor_class.remote(self._client_app)

    def _stop(self, worker: Any) -> None:
        with suppress(RayError):
            ray.kill(worker)

    def _store(self, records: Sequence[ArrayRecord]) -> list[list[ray.ObjectRef[Any]]]:
        # inside a list, so that Ray hands on the reference and the worker fetches it once per round
        return [[ray.put(pack(record))] for record in records]

    def _give(self, task: Task) -> None:
        context = self.contexts[task.message.metadata.dst_node_id]
        call = task.worker.handle.options(num_returns=2)
        task.progress["state"], task.progress["reply"] = call.remote(task.message, task.arrays, context)

    def _finished(self, running: Sequence[Task], seconds: float | None) -> Task | None:
        tasks = {task.progress["state"]: task for task in running}
        ended, _ = ray.wait(list(tasks), num_returns=1, timeout=seconds)
        return tasks[ended[0]] if ended else None

    def _outcome(self, task: Task) -> tuple[RecordDict, Any]:
        try:
            return ray.get(task.progress["state"]), task.progress["reply"]
        except (RayActorError, WorkerCrashedError) as error:
            raise WorkerDied(_brief(error)) from error
        except RayError as error:
            raise TaskFailed(_brief(error)) from error

    def _take(self, stored: Message | ray.ObjectRef[Any]) -> Message:
        if isinstance(stored, Message):
            return stored
        try:
            reply, arrays = ray.get(stored)
        except RayError as error:
            raise TaskFailed(_brief(error)) from error
        for name, packed in arrays.items():
            reply.content[name] = unpack(packed)
        return reply


def _brief(error: Exception) -> str:
    """Return the first line of one of Ray's long messages."""
    return str(error).strip().splitlines()[0]
