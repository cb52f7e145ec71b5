"""The `flwr` engine against Flower itself: same numbers as the local engine, true errors, and no process left."""

import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Self

import numpy as np
import psutil
import pytest

from fedrobust.checkpoint import load_model
from fedrobust.config import RunConfig
from fedrobust.engines import run
from fedrobust.engines.flwr_runtime import launch
from fedrobust.engines.superlink import superlink
from fedrobust.errors import ConfigError, RunFailed
from fedrobust.records import RunFolder

SMALL = {
    "num-clients": 3,
    "num-rounds": 1,
    "attack.steps": 2,
    "evaluation.attacks": "pgd-2",
    "evaluation.select-by": "pgd-2",
    "workers.num": 1,
    "workers.threads": 1,
}
NOTES_IMPORTS = """
import os, sys
def note(event, arguments):
    if event == "exec" and arguments[0].co_filename.endswith(("clients/app.py", "strategies/app.py")):
        with open(os.environ["NOTED_IMPORTS"], "a") as file:
            print(os.getpid(), arguments[0].co_filename, file=file)
sys.addaudithook(note)
"""


class Watch(threading.Thread):
    """Sees every process that descends from this one during the block, detached and renamed ones included."""

    def __init__(self, interrupt_at: str = "") -> None:
        super().__init__(daemon=True)
        self.seen: set[psutil.Process] = set()
        self._over = threading.Event()
        self._interrupt_at = interrupt_at

    def run(self) -> None:
        while not self._over.wait(0.3):
            children = psutil.Process().children(recursive=True)
            self.seen.update(children)
            if self._interrupt_at and any(self._interrupt_at == _name(child) for child in children):
                self._interrupt_at = ""
                os.kill(os.getpid(), signal.SIGINT)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()

    def left(self) -> list[psutil.Process]:
        return [process for process in self.seen if _name(process)]

    def names(self) -> set[str]:
        return self._names


def _name(process: psutil.Process) -> str:
    """ "" when it is no more."""
    try:
        alive = process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        return process.name() if alive else ""
    except psutil.NoSuchProcess:
        return ""
