"""The base of the engines with several workers: order, deadlines, retries. Subclasses have workers and transport.

Replies come in the order of the messages, so that they are summed in a fixed order; an early one waits, and a bounded
number is in progress. A worker that dies is replaced and its client tried once more. One that is still at work at the
deadline, or when the caller stops, is stopped, because it must not work in the next round.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from flwr.app import ArrayRecord, Message, RecordDict

from fedrobust.config import RunConfig
from fedrobust.engines.grid import SimulationGrid, error_reply
from fedrobust.import_path import import_path

ATTEMPTS = 2  # a worker's death costs its client one retry
WAITING_BYTES = 128 << 20  # of early replies that wait for a slower client before them


class WorkerDied(Exception):
    """The end of a worker before it answered."""


class TaskFailed(Exception):
    """A failure of one message, after which its worker can go on."""


@dataclass(eq=False)
class Task:
    """A message in progress: its place in the order, where its array records are stored, its worker and its tries.

    The message has no array records itself; `arrays` has the key of each by name.
    """

    position: int
    message: Message
    arrays: dict[str, Any]
    worker: Any = None
    tries: int = 0
    progress: dict[str, Any] = field(default_factory=dict)


class PoolGrid(SimulationGrid):
    """A grid over workers that each handle one message at a time."""

    def __init__(self, cfg: RunConfig) -> None:
        super().__init__(cfg)
        self._workers: set[Any] = set()
        self._idle: list[Any] = []

    @abstractmethod
    def _launch(self) -> Any:
        """Return a new worker."""

    @abstractmethod
    def _stop(self, worker: Any) -> None:
        """End a worker at once."""

    @abstractmethod
    def _store(self, records: Sequence[ArrayRecord]) -> list[Any]:
        """Store the array records of a round, each once; return what a worker finds them by."""

    @abstractmethod
    def _give(self, task: Task) -> None:
        """Start a task with its worker."""

    @abstractmethod
    def _finished(self, running: Sequence[Task], seconds: float | None) -> Task | None:
        """Wait for one of the tasks to end; None if that takes longer."""

    @abstractmethod
    def _outcome(self, task: Task) -> tuple[RecordDict, Any]:
        """Return the client's new state, and the reply or what `_take` makes one of.

        Raises:
            WorkerDied: the worker is gone.
            TaskFailed: there is no answer, but a worker.
        """

    @abstractmethod
    def _take(self, stored: Any) -> Message:
        """Return a reply that waited; raise TaskFailed if it cannot be read."""

    def _exchange(self, messages: list[Message], timeout: float | None) -> Iterator[Message]:
        deadline = None if timeout is None else monotonic() + timeout
        # at least as many ahead of the one awaited that no worker idles where clients take equally long
        window = 2 * len(self._idle) + WAITING_BYTES // max(map(_size, messages), default=1)
        queue = deque(self._tasks(messages))
        running: list[Task] = []
        done: dict[int, Any] = {}
        try:
            for position in range(len(messages)):
                # store finished replies now, so that the workers continue while the caller handles a reply
                while running and self._collect(queue, running, done, until=0.0):
                    pass
                self._feed(queue, running, position + window)
                while position not in done and (queue or running):
                    if not self._collect(queue, running, done, deadline):
                        queue.clear()
                        self._abandon(running)
                    self._feed(queue, running, position + window)
                if position in done:
                    try:
                        reply = self._take(done.pop(position))
                    except TaskFailed as error:
                        reply = error_reply(messages[position], str(error))
                    yield reply
        except KeyboardInterrupt:  # what runs ends with the grid; workers that the same signal hit may not answer
            running.clear()
            raise
        finally:
            self._abandon(running)

    def _tasks(self, messages: list[Message]) -> list[Task]:
        """Return tasks whose array records are stored: a record that many messages share is stored once."""
        tasks, records = [], {}
        for position, message in enumerate(messages):
            message.content = RecordDict(dict(message.content))  # of its own: what is taken out stays in the caller's
            taken = take_arrays(message)
            records.update({id(record): record for record in taken.values()})
            tasks.append(Task(position, message, {name: id(record) for name, record in taken.items()}))
        stored = dict(zip(records, self._store(list(records.values())), strict=True))
        for task in tasks:
            task.arrays = {name: stored[key] for name, key in task.arrays.items()}
        return tasks

    def _feed(self, queue: deque[Task], running: list[Task], end: int) -> None:
        """Give each idle worker the next task before `end`."""
        while self._idle and queue and queue[0].position < end:
            task = queue.popleft()
            task.worker, task.tries = self._idle.pop(), task.tries + 1
            self._give(task)
            running.append(task)

    def _collect(self, queue: deque[Task], running: list[Task], done: dict[int, Any], until: float | None) -> bool:
        """Wait for one worker and store its answer; return False if that time (of the monotonic clock) comes first."""
        task = self._finished(running, None if until is None else max(until - monotonic(), 0.0))
        if task is None:
            return False
        running.remove(task)
        try:
            self.contexts[task.message.metadata.dst_node_id].state, done[task.position] = self._outcome(task)
        except WorkerDied as error:
            self._replace(task.worker)
            if task.tries < ATTEMPTS:
                queue.appendleft(task)
            else:
                done[task.position] = error_reply(task.message, f"worker died {ATTEMPTS} times: {error}")
        except TaskFailed as error:
            done[task.position] = error_reply(task.message, str(error))
            self._idle.append(task.worker)
        else:
            self._idle.append(task.worker)
        return True

    def _abandon(self, running: list[Task]) -> None:
        """Stop workers that are still running: they must not work in the next round. After `close` there are none."""
        for task in running:
            if task.worker in self._workers:
                self._replace(task.worker)
        running.clear()

    def _start(self) -> None:
        """Start one more worker, idle."""
        worker = self._launch()
        self._workers.add(worker)
        self._idle.append(worker)

    def _replace(self, worker: Any) -> None:
        self._workers.remove(worker)
        self._stop(worker)
        self._start()


def worker_environment(threads: int) -> dict[str, str]:
    """Return what a worker's environment has besides the driver's: import path, threads, large pages for tensors."""
    return {
        "PYTHONPATH": import_path(),
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "THP_MEM_ALLOC_ENABLE": "1",
    }


def _size(message: Message) -> int:
    """Return the bytes of a message's arrays, which are about those of its reply."""
    return 1 + sum(record.count_bytes() for record in message.content.array_records.values())


def take_arrays(message: Message) -> dict[str, ArrayRecord]:
    """Remove the array records from a message and return them."""
    records = dict(message.content.array_records) if message.has_content() else {}
    for name in records:
        del message.content[name]
    return records
