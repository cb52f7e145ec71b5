"""The other side of the `processes` engine: a server that has loaded the ClientApp and forks workers, and a worker.

Not `multiprocessing`, whose children import the main module again and whose shared memory outlives a driver that is
killed. Here a child shares every page of the loaded libraries, shared memory is a file descriptor that ends with its
processes, and all of them end with the driver, whose socket they read.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import socket
import sys
from multiprocessing.connection import Connection
from typing import Any

from flwr.app import Array, ArrayRecord

from fedrobust.config.registry import load_path
from fedrobust.engines.grid import handle
from fedrobust.engines.pool import take_arrays

PR_SET_PDEATHSIG = 1

Place = tuple[str, int, list[tuple[str, str, tuple[int, ...], str, int]]]
"""Shared memory: path, size, and (key, dtype, shape, type, bytes) of each array, one after another."""


class SharedMemory:
    """A block of memory that other processes can open while this one lives; it grows, and is written anew each time."""

    def __init__(self) -> None:
        self._descriptor = os.memfd_create("fedrobust")
        self._size = 0
        self._map: mmap.mmap | None = None

    def write(self, record: ArrayRecord) -> Place:
        """Write the bytes of a record; return what `read` needs."""
        arrays = [(key, a.dtype, a.shape, a.stype, len(a.data)) for key, a in record.items()]
        needed = sum(size for *_, size in arrays)
        if needed > self._size:
            os.ftruncate(self._descriptor, needed)
            self._map, self._size = mmap.mmap(self._descriptor, needed), needed
        start = 0
        for array in record.values():
            if size := len(array.data):
                assert self._map is not None
                self._map[start : start + size] = array.data
            start += size
        return f"/proc/{os.getpid()}/fd/{self._descriptor}", self._size, arrays

    def close(self) -> None:
        """Release the memory."""
        if self._map is not None:
            self._map.close()
        os.close(self._descriptor)


def read(place: Place) -> ArrayRecord:
    """Return the record that was written there, with bytes of its own."""
    path, size, arrays = place
    if not size:
        return ArrayRecord({key: Array(dtype, shape, kind, b"") for key, dtype, shape, kind, _ in arrays})
    with open(path, "rb") as file, mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ) as memory:
        record, start = {}, 0
        for key, dtype, shape, kind, length in arrays:
            record[key] = Array(dtype, shape, kind, memory[start : start + length])
            start += length
    return ArrayRecord(record)


def serve(descriptor: int, client_app: str) -> None:
    """Load the ClientApp, then fork a worker for each socket that arrives, until the driver closes this one."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel forgets workers that have ended
    app = load_path(client_app)
    with socket.socket(fileno=descriptor) as driver:
        while True:
            device, descriptors, *_ = socket.recv_fds(driver, 64, 1)
            if not descriptors:
                return
            if not os.fork():
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # at work or not, it ends with this server
                driver.close()
                os.environ.update({"CUDA_VISIBLE_DEVICES": device.decode()} if device != b"-" else {})
                _work(Connection(descriptors[0]), app)
                os._exit(0)
            os.close(descriptors[0])


def _work(driver: Connection, app: Any) -> None:
    """Run the app on messages until the driver is gone. The arrays of a round are read once."""
    driver.send(os.getpid())
    known: dict[str, ArrayRecord] = {}
    replies: dict[str, SharedMemory] = {}
    while True:
        try:
            message, arrays, context = driver.recv()
        except (EOFError, OSError):
            return
        known = {key: record for key, record in known.items() if key in {key for key, _ in arrays.values()}}
        for key, place in arrays.values():
            if key not in known:
                known[key] = read(place)
        for name, (key, _) in arrays.items():
            message.content[name] = ArrayRecord(dict(known[key]))
        reply = handle(app, message, context)
        places = {}
        for name, record in take_arrays(reply).items():
            places[name] = replies.setdefault(name, SharedMemory()).write(record)
        try:
            driver.send((context.state, reply, places))
        except OSError:
            return


if __name__ == "__main__":
    serve(int(sys.argv[1]), sys.argv[2])
