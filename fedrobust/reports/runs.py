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
from fedrobust.storage.files import read_json
from fedrobust.storage.run_folder import ROUNDS, RunFolder, folder_of_run

MODELS = ("best", "last")
EVALUATED = ("subject", "num_images", "epsilon", "norm", "accuracy", "flags")  # what every evaluation's record has


@dataclass(frozen=True, eq=False)
class Run:
    """A run as its folder records it.

    name: its folder, relative to the nearest one above all requested runs.
    config: its settings; None if they cannot be read: the run did not reach round 1, or another version wrote it.
    problem: the line it failed with, or why its config cannot be read; "" if nothing is wrong.
    unreadable: true if one of its files is damaged, which `problem` explains; nothing of the run is used then.
    """

    name: str
    folder: RunFolder
    record: dict[str, Any]
    config: RunConfig | None
    problem: str
    unreadable: bool = False

    @cached_property
    def rounds(self) -> list[dict[str, Any]]:
        """The rows of rounds.jsonl."""
        return [] if self.unreadable else self.folder.read(ROUNDS)

    @cached_property
    def evaluations(self) -> dict[str, dict[str, Any]]:
        """Records of the finished evaluations in its folder, by name."""
        if self.unreadable:
            return {}
        paths = [
            *self.folder.path.glob("evaluations/*/evaluation.json"),
            *self.folder.path.glob("evaluation/evaluation.json"),
        ]
        return {path.parent.name: _evaluation(path) for path in sorted(paths)}

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

    Raises:
        ConfigError: a path has none, or is not there.
    """
    found: dict[Path, str] = {}
    for path in paths:
        try:
            found |= _folders(path)
        except FileNotFoundError:
            raise ConfigError(f"{path}: no such file or folder") from None
        except OSError as error:
            raise ConfigError(f"{path}: {_unread(error)}") from error
    above = common_folder(found)
    runs = [_read(folder, folder.relative_to(above).as_posix(), problem) for folder, problem in found.items()]
    return sorted(runs, key=lambda run: run.record.get("started", ""))


def _folders(path: Path) -> dict[Path, str]:
    """Return the folders of the runs at or below a path, and those that cannot be read, with the reason.

    Raises:
        ConfigError: there are no runs, or the path is not there.
        OSError: the path itself cannot be read.
    """
    top, closed = path.resolve(strict=True), dict[Path, str]()

    def note(error: OSError) -> None:
        if Path(error.filename) == top:
            raise error
        closed[Path(error.filename)] = _unread(error)

    walk = os.walk(top, onerror=note) if top.is_dir() else ()
    found = dict.fromkeys(sorted(Path(folder) for folder, _, files in walk if "record.json" in files), "") | closed
    if not found:
        found = {folder_of_run(top): ""}
        if not all((folder / "record.json").is_file() for folder in found):
            raise ConfigError(f"{path}: no run in it (no record.json)")
    return found


def _unread(error: OSError) -> str:
    return f"cannot be read ({error.strerror})"


def common_folder(folders: Iterable[Path]) -> Path:
    """Return the nearest folder above all of these."""
    return Path(os.path.commonpath([folder.parent for folder in folders]))


def common_judge(runs: Iterable[Run]) -> str:
    """Return the attack by which most of the runs were judged; "" if there is none."""
    judges = Counter(run.judge for run in runs if run.judge)
    return judges.most_common(1)[0][0] if judges else ""


def _read(path: Path, name: str, problem: str) -> Run:
    folder = RunFolder(path)
    if problem:
        return Run(name, folder, {}, None, problem, unreadable=True)
    try:
        run = _read_whole(folder, name)
        _ = run.rounds, run.evaluations  # damaged or not, that is seen here
        return run
    except RunFailed as error:
        return Run(name, folder, {}, None, str(error).replace(f"{path}{os.sep}", ""), unreadable=True)


def _read_whole(folder: RunFolder, name: str) -> Run:
    record = folder.record()
    problem = record.get("error", "")
    try:
        return Run(name, folder, record, folder.read_config(), problem)
    except ConfigError as error:
        there = (folder.path / "config.toml").exists()
        why = str(error) if there else "no config.toml: it did not come to round 1"
        return Run(name, folder, record, None, problem or " ".join(why.split()))


def _evaluation(path: Path) -> dict[str, Any]:
    """Return an evaluation's record, also with the former key "worst case". Raise RunFailed if it is damaged."""
    record = read_json(path)
    for found in (record.get("accuracy"), *record.get("per_class", []), *record.get("per_client", [])):
        if isinstance(found, dict) and "worst case" in found:
            found[WORST_CASE] = found.pop("worst case")
    if missing := [key for key in EVALUATED if key not in record]:
        raise RunFailed(f"{path}: damaged (it has no {missing[0]})")
    return record
