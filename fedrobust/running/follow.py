"""Following a run: the rows of rounds.jsonl as they are written, handed on the same way under every engine."""

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
    """Whoever wants to know of the rounds: the display, a tracker. What it raises in `round` and `end` stops no run."""

    name: str

    def begin(self, rows: Sequence[Row]) -> None:
        """Before the run: the rows that are there already. Of those a resumed run may repeat the last."""

    def round(self, row: Row) -> None:
        """A row that was written; one of a round that was there before takes its place."""

    def end(self) -> None:
        """After the run, however it ended."""


class Following:
    """A thread beside the run that looks at its folder; what was written by the end of the block is handed on."""

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
        """Rows from the first line on that is not as it was: a resumed run cuts back those of a broken-off round."""
        status = self._path.stat() if self._path.exists() else None
        if status is None or self._seen == (status.st_size, status.st_mtime_ns):
            return []
        self._seen = (status.st_size, status.st_mtime_ns)
        lines = [line for line in self._path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(self._lines, lines, strict=False)))
        self._lines = lines
        return [json.loads(line) for line in lines[same:]]

    def _trying(self, watcher: Watcher, step: Callable[..., None], *arguments: Any) -> bool:
        """Whether it went well; one line about what did not, and the run goes on."""
        try:
            step(*arguments)
        except Exception as error:
            self._on_trouble(f"{watcher.name}: {str(error).splitlines()[0] if str(error) else type(error).__name__}")
            return False
        return True
