"""The live display: reads a run's folder while the run writes it, the same way under every engine."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from fedrobust.config import WORST_CASE
from fedrobust.records import ROUNDS, RunFolder


class LiveDisplay:
    """A line per round, and on a terminal a bar with the time left; runs in a thread beside the run."""

    def __init__(self, folder: RunFolder, num_rounds: int, label: str, console: Console) -> None:
        self._path = folder.path / ROUNDS
        self._num_rounds = num_rounds
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}"),
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
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> LiveDisplay:
        self._progress.start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._progress.stop()

    def _watch(self) -> None:
        rows = self._rows()
        while True:
            last = self._stop.is_set()
            for row in rows:
                if row is None:
                    break
                self._console.print(round_line(row, self._num_rounds), highlight=False)
                self._progress.update(self._task, completed=row["round"])
            if last:
                return
            self._stop.wait(0.2)

    def _rows(self) -> Iterator[dict[str, Any] | None]:
        """Rows as they are written; None when there is none for now. Rows that were there before are passed over."""
        offset = self._path.stat().st_size if self._path.exists() else 0
        seen = offset
        while True:
            size = self._path.stat().st_size if self._path.exists() else 0
            if size < seen:  # a resumed run cuts back the rows of a broken-off round
                offset = seen = size
            if size > seen:
                with open(self._path, "rb") as file:
                    file.seek(offset)
                    for line in file:
                        if line.endswith(b"\n"):
                            offset += len(line)
                            yield json.loads(line)
                seen = offset
            yield None


def round_line(row: dict[str, Any], num_rounds: int) -> str:
    """One round in one line: losses, accuracies on the validation slice, what was rejected, seconds."""
    width = len(str(num_rounds))
    parts = [f"round {row['round']:>{width}}/{num_rounds}", f"loss {row['train.loss']:.3f}"]
    prefix = "validation."
    if f"{prefix}natural_accuracy" in row:
        parts.append(f"natural {row[prefix + 'natural_accuracy']:6.1%}")
        robust = f"{prefix}robust_accuracy."
        names = [key.removeprefix(robust) for key in row if key.startswith(robust)]
        parts += [f"{name} {row[robust + name]:6.1%}" for name in names if name != WORST_CASE]
    for status in ("rejected", "failed", "missing"):
        if row[status]:
            parts.append(f"[red]{row[status]} {status}[/red]")
    parts.append(f"{row['seconds_train'] + row['seconds_evaluate']:.1f} s")
    return "  ".join(parts)
