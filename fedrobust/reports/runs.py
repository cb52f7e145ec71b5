"""Runs below some folders, finished or not, each read once."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fedrobust.config import WORST_CASE, RunConfig
from fedrobust.config.names import split_list
from fedrobust.errors import ConfigError, RunFailed
from fedrobust.reports.packed import PackedRun, read_packed
from fedrobust.storage.run_folder import CLIENTS, PACKED, ROUNDS, RunFolder, folder_of_run

MODELS = ("best", "last")
EVALUATED = ("subject", "num_images", "epsilon", "norm", "accuracy", "flags")  # what every evaluation's record has


@dataclass(frozen=True, eq=False)
class Run:
    """A run as its folder, or its place among packed runs, records it.

    name: its folder, relative to the nearest one above all requested runs.
    config: its settings; None if they cannot be read: the run did not reach round 1, or another version wrote it.
    problem: the line it failed with, or why its config cannot be read; "" if nothing is wrong.
    unreadable: true if one of its files is damaged, which `problem` explains; nothing of the run is used then.
    """

    name: str
    folder: RunFolder | PackedRun
    record: dict[str, Any]
    config: RunConfig | None
    problem: str
    unreadable: bool = False

    @cached_property
    def rounds(self) -> list[dict[str, Any]]:
        """The rows of rounds.jsonl."""
        return [] if self.unreadable else self.folder.read(ROUNDS)

    @cached_property
    def clients(self) -> list[dict[str, Any]]:
        """The rows of clients.jsonl."""
        return [] if self.unreadable else self.folder.read(CLIENTS)

    @cached_property
    def partition(self) -> dict[str, list[Any]]:
        """The columns of partition.csv, a value per client in each; {} if there is none."""
        return {} if self.unreadable else self.folder.read_partition()

    @cached_property
    def evaluations(self) -> dict[str, dict[str, Any]]:
        """Records of the finished evaluations in its folder, by name."""
        records = {} if self.unreadable else self.folder.read_evaluations()
        return {
            Path(place).name: _evaluation(record, self.folder.path / place / "evaluation.json")
            for place, record in records.items()
        }

    @property
    def state(self) -> str:
        """The state by the record: completed, running, interrupted (or killed), failed, unreadable, "not started"."""
        if self.unreadable:
            return "unreadable"
        state = self.record.get("state", "not started")
        return "interrupted" if state == "running" and not self.folder.at_work else state

    @property
    def warnings(self) -> list[str]:
        """Warnings in the run's record: clients that fail again and again, overfitting."""
        return list(dict.fromkeys(self.record.get("warnings", [])))

    @property
    def models(self) -> list[str]:
        """The models among "best" and "last" that were evaluated on the test set."""
        return [model for model in MODELS if model in self.record]

    @property
    def judge(self) -> str:
        """The attack by which the best round was chosen; for natural accuracy, the last of evaluation.attacks."""
        if self.config is None:
            return ""
        evaluation = self.config.evaluation
        if evaluation.select_by != "natural":
            return evaluation.select_by
        return next(reversed(split_list(evaluation.attacks)), "")


def find_runs(paths: Iterable[Path]) -> list[Run]:
    """Return every run at or below the paths, oldest first; for a path inside a run's folder, that run.

    A packed run is at the path that its folder would have beside runs.jsonl.

    Raises:
        ConfigError: a path has none, or is not there.
    """
    found: dict[Path, RunFolder | PackedRun | str] = {}
    for path in paths:
        try:
            found |= _folders(path)
        except FileNotFoundError:
            raise ConfigError(f"{path}: no such file or folder") from None
        except OSError as error:
            raise ConfigError(f"{path}: {_unread(error)}") from error
    above = common_folder(found)
    runs = [_read(path, path.relative_to(above).as_posix(), found[path]) for path in sorted(found)]
    return sorted(runs, key=lambda run: run.record.get("started", ""))


def _folders(path: Path) -> dict[Path, RunFolder | PackedRun | str]:
    """Return the runs at or below a path by their folders, and what cannot be read, with why.

    Raises:
        ConfigError: there are no runs, or the path is not there.
        OSError: the path itself cannot be read.
    """
    found: dict[Path, RunFolder | PackedRun | str] = dict(packed_at(path))
    if found:
        return found
    top = path.resolve(strict=True)

    def note(error: OSError) -> None:
        if Path(error.filename) == top:
            raise error
        found[Path(error.filename)] = _unread(error)

    if top.name == PACKED and top.is_file():
        found |= read_packed(top.parent)
    for name, _, files in os.walk(top, onerror=note) if top.is_dir() else ():
        if "record.json" in files:
            found[Path(name)] = RunFolder(name)
        if PACKED in files:
            found |= read_packed(Path(name))
    if not found:
        folder = folder_of_run(top)
        if not (folder / "record.json").is_file():
            raise ConfigError(f"{path}: no run in it (no record.json)")
        found[folder] = RunFolder(folder)
    return found


def packed_at(path: Path) -> dict[Path, PackedRun | str]:
    """Return the packed runs at or below a path where nothing lies itself."""
    top = path.resolve()
    packed = next((above for above in top.parents if (above / PACKED).is_file()), None)
    if path.exists() or packed is None:
        return {}
    return {place: run for place, run in read_packed(packed).items() if place.is_relative_to(top)}


def _unread(error: OSError) -> str:
    return f"cannot be read ({error.strerror})"


def common_folder(folders: Iterable[Path]) -> Path:
    """Return the nearest folder above all of these."""
    return Path(os.path.commonpath([folder.parent for folder in folders]))


def common_judge(runs: Iterable[Run]) -> str:
    """Return the attack by which most of the runs were judged; "" if there is none."""
    judges = Counter(run.judge for run in runs if run.judge)
    return judges.most_common(1)[0][0] if judges else ""


def _read(path: Path, name: str, folder: RunFolder | PackedRun | str) -> Run:
    if isinstance(folder, str):
        return Run(name, RunFolder(path), {}, None, folder, unreadable=True)
    try:
        run = _read_whole(folder, name)
        _ = run.rounds, run.evaluations  # damaged or not, that is seen here
        return run
    except RunFailed as error:
        return Run(name, folder, {}, None, str(error).replace(f"{path}{os.sep}", ""), unreadable=True)


def _read_whole(folder: RunFolder | PackedRun, name: str) -> Run:
    record = folder.record()
    problem = record.get("error", "")
    try:
        return Run(name, folder, record, folder.read_config(), problem)
    except ConfigError as error:
        there = folder.read_flat_config() is not None
        why = str(error) if there else "no config.toml: it did not come to round 1"
        return Run(name, folder, record, None, problem or " ".join(why.split()))


def _evaluation(record: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return an evaluation's record as it is written today: the key "worst-case" was "worst case" once.

    Raises:
        RunFailed: it is damaged.
    """
    for found in (record.get("accuracy"), *record.get("per_class", []), *record.get("per_client", [])):
        if isinstance(found, dict) and "worst case" in found:
            found[WORST_CASE] = found.pop("worst case")
    if missing := [key for key in EVALUATED if key not in record]:
        raise RunFailed(f"{path}: damaged (it has no {missing[0]})")
    return record
