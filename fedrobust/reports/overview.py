"""Runs seen together: which there are, how they group, what they came to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from fedrobust.reports.groups import Group, group
from fedrobust.reports.results import results
from fedrobust.reports.runs import Run, common_folder, common_judge, find_runs
from fedrobust.reports.summary import summarise


@dataclass(frozen=True, eq=False)
class Overview:
    """All runs below some folders.

    title: the name of the nearest folder above them; judge: the attack that figures call robust; target: of
    `rounds_to_<target>`, None for no such column.
    """

    title: str
    runs: list[Run]
    groups: list[Group]
    judge: str
    target: float | None = None

    @classmethod
    def of(cls, paths: Iterable[Path], target: float | None = None) -> Overview:
        """The runs at or below these paths. Raises ConfigError where a path has none."""
        runs = find_runs(paths)
        title = runs[0].name if len(runs) == 1 else common_folder(run.folder.path for run in runs).name
        return cls(title, runs, group(runs), common_judge(runs), target)

    @cached_property
    def results(self) -> pd.DataFrame:
        """A row per run and model."""
        return results(self.runs, self.groups, self.target)

    @cached_property
    def summary(self) -> pd.DataFrame:
        """A row per group and model, over seeds."""
        return summarise(self.results, list(self.groups[0].values) if self.groups else [])

    def compact(self, table: pd.DataFrame) -> pd.DataFrame:
        """A table for reading: of the worst client's accuracies only natural and that under `judge`."""
        kept = ("worst_client.natural_accuracy", f"worst_client.robust_accuracy.{self.judge}")
        names = {column: column.removesuffix(".mean").removesuffix(".std") for column in map(str, table)}
        return table.drop(
            columns=[c for c, name in names.items() if name.startswith("worst_client.") and name not in kept]
        )
