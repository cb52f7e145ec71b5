"""Following a run: the rows of rounds.jsonl are passed to watchers as they are written, in the same way under every
engine.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import takewhile
from typing import Any, Protocol

from fedrobust.storage.run_folder import ROUNDS, RunFolder

PAUSE = 0.2  # seconds between looks

Row = dict[str, Any]


class Watcher(Protocol):
    """A receiver of a run's rows: the display or a tracker. Errors that it raises in `round` and `end` do not stop the
    run.
    """

    name: str

    def begin(self, rows: Sequence[Row]) -> None:
        """Receive the existing rows before the run. A resumed run may repeat the last of them."""

    def round(self, row: Row) -> None:
        """Receive a new row; it replaces an earlier row of the same round."""

    def end(self) -> None:
        """Finish after the run, however it ended."""


class Following:
    """A thread that watches the run's folder; all rows written before the end of the block are passed on."""

    def __init__(self, folder: RunFolder, watchers: Sequence[Watcher], on_trouble: Callable[[str], None]) -> None:
        self._path = folder.path / ROUNDS
        self._watchers = list(watchers)
        self._on_trouble = on_trouble
        self._lines: list[bytes] = []
        self._seen: tuple[int, int] | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Following:
        before = self._new_rows()
        with ExitStack() as stack:
            for watcher in self._watchers:
                watcher.begin(before)
                stack.callback(self._trying, watcher, watcher.end)
            self._ends = stack.pop_all()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._ends.close()

    def _watch(self) -> None:
        while True:
            last = self._stop.is_set()
            for row in self._new_rows():
                self._watchers = [w for w in self._watchers if self._trying(w, w.round, row)]
            if last:
                return
            self._stop.wait(PAUSE)

    def _new_rows(self) -> list[Row]:
        """Return the rows from the first changed line on: a resumed run removes those of an interrupted round."""
        status = self._path.stat() if self._path.exists() else None
        if status is None or self._seen == (status.st_size, status.st_mtime_ns):
            return []
        self._seen = (status.st_size, status.st_mtime_ns)
        lines = [line for line in self._path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(self._lines, lines, strict=False)))
        self._lines = lines
        return [json.loads(line) for line in lines[same:]]

    def _trying(self, watcher: Watcher, step: Callable[..., None], *arguments: Any) -> bool:
        """Return whether the call succeeded; print one line if not, and let the run continue."""
        try:
            step(*arguments)
        except Exception as error:
            self._on_trouble(f"{watcher.name}: {str(error).splitlines()[0] if str(error) else type(error).__name__}")
            return False
        return True
