"""The live display of a run: a line per round, and on a terminal a bar with the time left."""

from __future__ import annotations

from collections.abc import Sequence
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
from rich.text import Text

from fedrobust.cli.console import styled
from fedrobust.config import WORST_CASE


class LiveDisplay:
    """A watcher that prints the rows it receives from `fedrobust.running.follow`."""

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
        """Start the bar; earlier rounds are not printed again."""
        self._progress.start()

    def round(self, row: dict[str, Any]) -> None:
        """Print the round's line."""
        self._console.print(round_line(row, self._num_rounds))
        self._progress.update(self._task, completed=row["round"])

    def end(self) -> None:
        """Remove the bar."""
        self._progress.stop()


def round_line(row: dict[str, Any], num_rounds: int) -> Text:
    """Return one round as a line: losses, accuracies on the validation slice, rejections, warnings, seconds."""
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
