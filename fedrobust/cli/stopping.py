"""A run's end by a signal: Ctrl-C, or the SIGTERM of `timeout`, `kill`, Slurm and systemd."""

from __future__ import annotations

import signal
from contextlib import suppress
from time import monotonic
from types import FrameType, TracebackType
from typing import Any

from fedrobust.storage.run_folder import RunFolder

SIGNALS = (signal.SIGINT, signal.SIGTERM)
ONE_AND_THE_SAME = 2.0  # seconds: a signal to a whole group may reach a process twice, from its sender and a parent


class Stopping:
    """A block in which the first signal marks the run's record, then raises KeyboardInterrupt.

    The mark comes before anything is shut down: whatever the shutdown meets with, or is killed in, the record says how
    the run ended. SIGINT stays ignored where it was, as it is in the background of a shell.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._last = float("-inf")
        self._before: dict[signal.Signals, Any] = {}
        self.asked = False
        """True once a signal has come."""

    def __enter__(self) -> Stopping:
        self._before = {name: signal.getsignal(name) for name in SIGNALS}
        for name, handler in self._before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(name, self._stop)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name, handler in self._before.items():
            signal.signal(name, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if monotonic() - self._last < ONE_AND_THE_SAME:
            return
        self._last, self.asked = monotonic(), True
        with suppress(OSError):
            self._folder.update_record(state="interrupted")
        raise KeyboardInterrupt
