"""A run as it is watched: the rows of rounds.jsonl as they are written, a line for each, and a bar on a terminal."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import takewhile
from typing import Any, Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from fedrobust.cli.console import styled
from fedrobust.config import WORST_CASE
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


class LiveDisplay:
    """Prints what `fedrobust.cli.live` hands it."""

    name = "display"

    def __init__(self, num_rounds: int, label: str, console: Console) -> None:
        self._num_rounds = num_rounds
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("rounds"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=False),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._task = self._progress.add_task(label, total=num_rounds)

    def begin(self, rows: Sequence[dict[str, Any]]) -> None:
        """Start the bar; rounds of before are not printed again."""
        self._progress.start()

    def round(self, row: dict[str, Any]) -> None:
        """Its line."""
        self._console.print(round_line(row, self._num_rounds))
        self._progress.update(self._task, completed=row["round"])

    def end(self) -> None:
        """Take the bar away."""
        self._progress.stop()


def round_line(row: dict[str, Any], num_rounds: int) -> Text:
    """One round in one line: losses, accuracies on the validation slice, what was rejected, warnings, seconds."""
    width = len(str(num_rounds))
    parts: list[str | tuple[str, str]] = [
        f"round {row['round']:>{width}}/{num_rounds}",
        f"loss {row['train.loss']:.3f}",
    ]
    prefix = "validation."
    if f"{prefix}natural_accuracy" in row:
        parts.append(f"natural {row[prefix + 'natural_accuracy']:6.1%}")
        robust = f"{prefix}robust_accuracy."
        names = [key.removeprefix(robust) for key in row if key.startswith(robust)]
        parts += [f"{name} {row[robust + name]:6.1%}" for name in names if name != WORST_CASE]
    for status in ("rejected", "failed", "missing"):
        if row.get(status):
            parts.append((f"{row[status]} {status}", "red"))
    if "warning" in row:
        parts.append((row["warning"], "red"))
    parts.append(f"{row['seconds_train'] + row['seconds_evaluate']:.1f} s")
    return Text("  ").join(styled(part) for part in parts)
