"""What a sweep shows of itself while it is at work."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn

from fedrobust.cli.console import styled
from fedrobust.config.names import short_metric
from fedrobust.studies.plan import PlannedRun
from fedrobust.studies.sweep import Outcome, Sweep


class SweepDisplay:
    """A bar over the whole sweep with the time left, one per run at work; without a terminal, a line per run."""

    def __init__(self, console: Console, runs: Sequence[PlannedRun]) -> None:
        self._console, self._started = console, time.monotonic()
        self._total = sum(run.cost for run in runs)
        self._before = self._done = sum(run.cost for run in runs if run.complete or run.damage)
        self._tasks: dict[PlannedRun, TaskID] = {}
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._whole = self._progress.add_task("all", total=1.0, left="")

    def __enter__(self) -> SweepDisplay:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def update(self, sweep: Sweep) -> None:
        """How far the sweep is."""
        shares = sweep.shares()
        for run, share in shares.items():
            if run not in self._tasks:
                self._tasks[run] = self._progress.add_task(run.label, total=1.0, left="")
                self._before += run.cost * share  # done by an earlier sweep
                if not self._console.is_terminal:
                    self._console.print(f"began {run.label}{f' at {share:.0%}' if share else ''}")
            self._progress.update(self._tasks[run], completed=share)
        for run in [run for run in self._tasks if run not in shares]:
            self._progress.remove_task(self._tasks.pop(run))
        done = self._done + sum(run.cost * share for run, share in shares.items())
        self._progress.update(self._whole, completed=done / self._total, left=self._left(done))

    def ended(self, outcome: Outcome) -> None:
        """A line for a run that has ended: its numbers, or its error."""
        if outcome.state == "completed":
            self._done += outcome.run.cost
            best = outcome.run.folder.record()["best"]
            accuracies = "  ".join(f"{short_metric(key)} {best[key]:.1%}" for key in best if "accuracy" in key)
            text = styled(f"{outcome.run.label}: {accuracies}  ({outcome.seconds:.0f} s; {self._left(self._done)})")
        else:
            text = styled(f"{outcome.run.label}: ", (outcome.state, "red"), f" {outcome.error}")
        self._console.print(text)

    def _left(self, done: float) -> str:
        """Time left, if the rest goes as fast as what this sweep has done."""
        fresh = done - self._before
        if fresh <= 0:
            return ""
        seconds = (time.monotonic() - self._started) * (self._total - done) / fresh
        return f"{seconds / 3600:.1f} h left" if seconds > 5400 else f"{seconds / 60:.0f} min left"
