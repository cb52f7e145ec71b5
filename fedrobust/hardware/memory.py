"""Peak memory of a process and its descendants."""

from __future__ import annotations

import os
import threading
from types import TracebackType

import psutil


class PeakMemory:
    """A sampler of the memory of this process and its descendants during the block; `peak` is in bytes.

    It counts the proportional set size if the system has it (Linux): a page that k processes share counts 1/k in
    each, so the memory-mapped data set and Ray's object store count once. On other systems it counts the resident set
    size.
    """

    def __init__(self, interval: float = 1.0) -> None:
        self.peak = 0
        self._interval = interval
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            self.peak = max(self.peak, tree_memory())
            if self._stop.wait(self._interval):
                return


def tree_memory(pid: int | None = None) -> int:
    """Return the bytes held now by a process (this one if None) and its descendants."""
    root = psutil.Process(pid or os.getpid())
    return sum(_memory(process) for process in [root, *root.children(recursive=True)])


def _memory(process: psutil.Process) -> int:
    try:
        memory = process.memory_full_info()
        return getattr(memory, "pss", memory.rss)
    except psutil.AccessDenied:
        return process.memory_info().rss
    except psutil.NoSuchProcess:
        return 0
