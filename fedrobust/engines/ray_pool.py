"""The `ray` engine: a Flower Grid over a pool of Ray actors, on this machine or on a cluster.

Differences to Flower's own simulation engine: the global weights go into the object store once per round and into each
worker once, not once per client; replies are returned in the order of the messages, an early one waits in the object
store, and a bounded number is in progress; an actor that dies is replaced and its client tried once more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import Any

from flwr.app import Message, RecordDict

from fedrobust.config import RunConfig
from fedrobust.engines.grid import SimulationGrid, error_reply
from fedrobust.engines.ray_cluster import (
    RayActorError,
    RayError,
    WorkerCrashedError,
    check_room,
    ray,
    start_ray,
    stop_ray,
)
from fedrobust.engines.ray_worker import Worker, pack, take_arrays, unpack
from fedrobust.import_path import import_path

ATTEMPTS = 2  # an actor's death costs its client one retry
WAITING_BYTES = 128 << 20  # of early replies that wait in the object store for a slower client before them


@dataclass
class _Task:
    """A message in progress: its place in the order, its worker, the number of its tries."""

    position: int
    message: Message
    arrays: dict[str, list[ray.ObjectRef[Any]]]
    actor: Any = None
    reply: Any = None
    tries: int = 0


class RayGrid(SimulationGrid):
    """A grid of `workers.num` actors with `workers.threads` CPU threads and `workers.num-gpus` GPUs each."""

    def __init__(self, cfg: RunConfig, client_app: str) -> None:
        super().__init__(cfg)
        workers = cfg.workers
        self._owns_ray = start_ray(workers.address, workers.num * workers.threads)
        self._actors: set[Any] = set()
        self._idle: list[Any] = []
        environment = {
            "PYTHONPATH": import_path(),
            "OMP_NUM_THREADS": str(workers.threads),
            "MKL_NUM_THREADS": str(workers.threads),
            "THP_MEM_ALLOC_ENABLE": "1",
        }
        self._actor_class = ray.remote(Worker).options(
            num_cpus=workers.threads, num_gpus=workers.num_gpus, runtime_env={"env_vars": environment}
        )
        self._arguments = (client_app,)
        try:
            check_room(cfg)
            for _ in range(workers.num):
                self._start()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        actors, self._actors, self._idle = self._actors, set(), []
        if self._owns_ray:  # and with it go the actors
            stop_ray()
            self._owns_ray = False
            return
        for actor in actors:
            with suppress(RayError):
                ray.kill(actor)

    def _exchange(self, messages: list[Message], timeout: float | None) -> Iterator[Message]:
        deadline = None if timeout is None else monotonic() + timeout
        # at least as many ahead of the one awaited that no actor idles where clients take equally long
        window = 2 * len(self._idle) + WAITING_BYTES // max(map(_size, messages), default=1)
        queue = deque(_stored(messages))
        running: dict[ray.ObjectRef[Any], _Task] = {}
        done: dict[int, Message | ray.ObjectRef[Any]] = {}
        try:
            for position in range(len(messages)):
                # store finished replies now, so that the actors continue while the caller handles a reply
                while running and self._collect(queue, running, done, until=0.0):
                    pass
                self._feed(queue, running, position + window)
                while position not in done and (queue or running):
                    if not self._collect(queue, running, done, deadline):
                        queue.clear()
                        self._abandon(running)
                    self._feed(queue, running, position + window)
                if position in done:
                    yield _taken(messages[position], done.pop(position))
        except KeyboardInterrupt:  # what runs ends with the grid; Ray, if the same signal has hit it, may not answer
            running.clear()
            raise
        finally:
            self._abandon(running)

    def _feed(self, queue: deque[_Task], running: dict[ray.ObjectRef[Any], _Task], end: int) -> None:
        """Give each idle actor the next task before `end`."""
        while self._idle and queue and queue[0].position < end:
            task = queue.popleft()
            task.actor, task.tries = self._idle.pop(), task.tries + 1
            context = self.contexts[task.message.metadata.dst_node_id]
            call = task.actor.handle.options(num_returns=2)
            state, task.reply = call.remote(task.message, task.arrays, context)
            running[state] = task

    def _collect(
        self,
        queue: deque[_Task],
        running: dict[ray.ObjectRef[Any], _Task],
        done: dict[int, Message | ray.ObjectRef[Any]],
        until: float | None,
    ) -> bool:
        """Wait for one actor and store its answer; return False if that time (of the monotonic clock) comes first."""
        left = None if until is None else max(until - monotonic(), 0.0)
        finished, _ = ray.wait(list(running), num_returns=1, timeout=left)
        if not finished:
            return False
        task = running.pop(finished[0])
        try:
            self.contexts[task.message.metadata.dst_node_id].state = ray.get(finished[0])
            done[task.position] = task.reply
        except (RayActorError, WorkerCrashedError) as error:
            self._replace(task.actor)
            if task.tries < ATTEMPTS:
                queue.appendleft(task)
            else:
                done[task.position] = error_reply(task.message, f"worker died {ATTEMPTS} times: {_brief(error)}")
        except RayError as error:
            done[task.position] = error_reply(task.message, _brief(error))
            self._idle.append(task.actor)
        else:
            self._idle.append(task.actor)
        return True

    def _abandon(self, running: dict[ray.ObjectRef[Any], _Task]) -> None:
        """Stop actors that are still running: they must not work in the next round. After `close` there are none."""
        for task in running.values():
            if task.actor in self._actors:
                self._replace(task.actor)
        running.clear()

    def _start(self) -> None:
        """Start one more actor, idle."""
        actor = self._actor_class.remote(*self._arguments)
        self._actors.add(actor)
        self._idle.append(actor)

    def _replace(self, actor: Any) -> None:
        self._actors.remove(actor)
        with suppress(RayError):
            ray.kill(actor)
        self._start()


def _size(message: Message) -> int:
    """Return the bytes of a message's arrays, which are about those of its reply."""
    return 1 + sum(record.count_bytes() for record in message.content.array_records.values())


def _stored(messages: list[Message]) -> list[_Task]:
    """Return tasks whose array records are in the object store: a record that many messages share is put there once."""
    refs: dict[int, ray.ObjectRef[Any]] = {}
    tasks = []
    for position, message in enumerate(messages):
        message.content = RecordDict(dict(message.content))  # of its own: what is taken out stays in the caller's
        arrays = {}
        for name, record in take_arrays(message).items():
            if id(record) not in refs:
                refs[id(record)] = ray.put(pack(record))
            # inside a list, so that Ray hands on the reference and the worker fetches it once per round
            arrays[name] = [refs[id(record)]]
        tasks.append(_Task(position, message, arrays))
    return tasks


def _taken(message: Message, stored: Message | ray.ObjectRef[Any]) -> Message:
    """Return the reply to a message, from the object store if it lies there."""
    if isinstance(stored, Message):
        return stored
    try:
        reply, arrays = ray.get(stored)
    except RayError as error:
        return error_reply(message, _brief(error))
    for name, packed in arrays.items():
        reply.content[name] = unpack(packed)
    return reply


def _brief(error: Exception) -> str:
    """Return the first line of one of Ray's long messages."""
    return str(error).strip().splitlines()[0]
