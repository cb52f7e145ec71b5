"""A run's folder: config.toml, rounds.jsonl, clients.jsonl, partition.csv, checkpoint, models, record.json.

The folder is the interface between a run and its readers: the live display reads it while the run writes it, under
every engine. Metrics are tidy, one `pandas.read_json(path, lines=True)` away.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from itertools import chain, count
from pathlib import Path
from typing import Any

from fedrobust.config import RunConfig, todays_meaning, toml
from fedrobust.errors import ConfigError, RunFailed
from fedrobust.storage.csv_rows import Row, read_csv
from fedrobust.storage.files import lock, read_json, write_atomically, writing

ROUNDS, CLIENTS = "rounds.jsonl", "clients.jsonl"
LOGS = (ROUNDS, CLIENTS)
RUNS = "runs"  # of runs that were given no folder
PACKED = "runs.jsonl"  # in a folder of packed runs, which `fedrobust.reports.packed` writes and reads
LOCK, RESERVE = ".lock", ".reserve"
RESERVE_BYTES = 64 << 10
ANOTHER = "name another run-dir"
ALWAYS = {"seed", "num-rounds", "data.name", "workers.num"}  # what the config of every run has, down to its end


def new_run_dir(name: str) -> Path:
    """Make a new folder, runs/<name>-<date>-<time> below the current one; "-2" and so on if that exists.

    The folder is made here, so that no two runs get the same one.

    Raises:
        RunFailed: the folder cannot be made.
    """
    first = Path(RUNS) / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
    for path in chain([first], (first.with_name(f"{first.name}-{n}") for n in count(2))):
        with writing(path, ANOTHER):
            try:
                path.mkdir(parents=True)
                return path
            except FileExistsError:
                if not path.is_dir():
                    raise
    raise AssertionError


def absolute(path: str) -> str:
    """Return the path as an absolute one; "" does not change."""
    return path and str(Path(path).expanduser().absolute())


def with_absolute_paths(cfg: RunConfig) -> RunConfig:
    """Return the config with all its paths absolute, as it is stored: the run may be resumed from another folder."""
    return cfg.replace(run_dir=absolute(cfg.run_dir), init=absolute(cfg.init), data__dir=absolute(cfg.data.dir))


def folder_of_run(path: Path) -> Path:
    """Return the folder of the run that this file or folder lies in; the path itself if it is in none."""
    if path.exists():
        for folder in (path.absolute(), *path.absolute().parents):
            if any((folder / name).is_file() for name in ("config.toml", "record.json")):
                return folder
    return path


def why_no_run(path: Path) -> str:
    """Return why no run in this folder can be resumed or evaluated, where it has no config.toml."""
    above = () if path.exists() else path.absolute().parents
    if packed := next((folder for folder in (path, *above) if (folder / PACKED).is_file()), None):
        return f"{packed}: holds packed runs, without models and checkpoints: name the folder that a run was made in"
    return f"{path}: no run in it (no config.toml)"


def model_facts(cfg: RunConfig) -> dict[str, Any]:
    """Return the facts in a model's file: all that is needed to build the model, and its data."""
    settings = cfg.model.model_dump()
    return {"model": settings.pop("name"), **settings, "data": cfg.data.name, "classes": cfg.data.classes}


class RunFolder:
    """The files of one run."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.checkpoint = self.path / "checkpoint.safetensors"
        self.best = self.path / "best.safetensors"
        self.last = self.path / "last.safetensors"
        self.partition = self.path / "partition.csv"

    @classmethod
    def create(cls, cfg: RunConfig) -> RunFolder:
        """Make a new folder at `cfg.run_dir`, with the complete config in it.

        Raises:
            ConfigError: the folder already holds a run.
            RunFailed: the folder cannot be written.
        """
        folder = cls(cfg.run_dir)
        folder.prepare()
        with folder.held():  # of two that come at once, the second finds the first one's config
            folder.check_new()
            folder._write_config(cfg)
        return folder

    @classmethod
    def reopen(cls, cfg: RunConfig) -> RunFolder:
        """Return the folder of a run that is resumed with `cfg`.

        Raises:
            ConfigError: the folder holds no run, or one that still runs.
            RunFailed: the folder cannot be written.
        """
        folder = cls(cfg.run_dir)
        folder.read_config()
        with folder.held():
            folder._write_config(cfg.replace(resume=False))
        return folder

    def _write_config(self, cfg: RunConfig) -> None:
        with writing(self.path):
            write_atomically(self.path / "config.toml", toml.dumps(cfg.to_flat()).encode())

    def check_new(self) -> None:
        """Raise ConfigError if there already is a run in it or above it."""
        if (self.path / "config.toml").exists():
            raise ConfigError(f"run-dir = {str(self.path)!r}: holds a run already; resume it, or name another folder")
        self.check_outside_of_runs()

    def check_outside_of_runs(self) -> None:
        """Raise ConfigError if it would lie in the folder of another run."""
        for above in self.path.absolute().parents:
            if all((above / name).exists() for name in ("config.toml", "record.json")):
                raise ConfigError(f"run-dir = {str(self.path)!r}: {above} is the folder of a run; name another")

    def check_writable(self) -> None:
        """Raise ConfigError if the folder cannot be made or written; nothing is made here."""
        there = next(path for path in (self.path.absolute(), *self.path.absolute().parents) if path.exists())
        with writing(self.path, ANOTHER, ConfigError), tempfile.TemporaryDirectory(prefix=".writable-", dir=there):
            pass

    def prepare(self) -> None:
        """Make the folder. Raise RunFailed if it cannot be made or written."""
        with writing(self.path, ANOTHER):
            self.path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path):
                pass

    @contextmanager
    def held(self) -> Iterator[None]:
        """Lock the folder inside the block, so that only this process writes it. However the process ends, the lock is
        released.

        Raises:
            ConfigError: another process holds it.
        """
        try:
            file = lock(self.path / LOCK)
        except BlockingIOError as error:
            raise ConfigError(f"{self.path}: a run is at work in it; wait until it is done, or stop it") from error
        with file:
            yield

    @property
    def at_work(self) -> bool:
        """True if a process holds this folder, or if this user has no permission to check."""
        if not (self.path / LOCK).exists():
            return False
        try:
            lock(self.path / LOCK).close()
        except (BlockingIOError, PermissionError):
            return True
        return False

    def read_config(self) -> RunConfig:
        """Return the config the run was started with.

        Raises:
            ConfigError: there is none, or one of another version.
            RunFailed: the config is damaged; defaults in its place would be another run.
        """
        flat = self.read_flat_config()
        if flat is None:
            raise ConfigError(why_no_run(self.path))
        return RunConfig.from_flat(todays_meaning(flat))

    def read_flat_config(self) -> dict[str, Any] | None:
        """Return the settings in config.toml as they were written; None if there is no such file.

        Raises:
            RunFailed: it is damaged.
        """
        path = self.path / "config.toml"
        if not path.exists():
            return None
        try:
            flat = toml.flatten(toml.read(path))
        except ConfigError as error:
            raise RunFailed(f"damaged: {error}") from error
        if not flat.keys() >= ALWAYS:
            raise RunFailed(f"{path}: damaged ({'broken off' if flat else 'empty'})")
        return flat

    def check_readable(self) -> None:
        """Raise RunFailed if the record, or an existing config, is damaged."""
        self.record()
        if (self.path / "config.toml").exists():
            self.read_config()

    @contextmanager
    def reserve(self) -> Iterator[None]:
        """Reserve some disk space inside the block, so that the record can still be written when the disk is full."""
        with writing(self.path, ANOTHER):
            write_atomically(self.path / RESERVE, bytes(RESERVE_BYTES))
        try:
            yield
        finally:
            (self.path / RESERVE).unlink(missing_ok=True)

    def check_space(self, needed: int) -> None:
        """Raise RunFailed if fewer than `needed` bytes are free: better before round 1 than in the middle."""
        free = shutil.disk_usage(self.path).free
        if free < needed:
            raise RunFailed(f"{self.path}: {free / 2**20:.0f} MiB free, the checkpoints need {needed / 2**20:.0f} MiB")

    def append(self, log: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add rows to a metrics file."""
        text = "".join(json.dumps(dict(row)) + "\n" for row in rows)
        try:
            with open(self.path / log, "a", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path / log)) from error

    def read(self, log: str) -> list[dict[str, Any]]:
        """Return all rows of a metrics file; a row that a run is just writing is left out.

        Raises:
            RunFailed: a row is damaged.
        """
        path = self.path / log
        if not path.exists():
            return []
        try:
            return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
        except ValueError as error:
            raise RunFailed(f"{path}: damaged ({' '.join(str(error).split())})") from error

    def read_partition(self) -> dict[str, list[Any]]:
        """Return the columns of partition.csv, a value per client in each; {} if there is no such file.

        Raises:
            RunFailed: it is damaged.
        """
        if not self.partition.exists():
            return {}
        rows = read_csv(self.partition)
        if not rows or not all(row.keys() == rows[0].keys() for row in rows):
            raise RunFailed(f"{self.partition}: damaged (rows of different lengths, or none)")
        return {column: [row[column] for row in rows] for column in rows[0]}

    def read_evaluations(self) -> dict[str, dict[str, Any]]:
        """Return the record of each finished `fedrobust evaluate`, by its folder as seen from the run's.

        Raises:
            RunFailed: one is damaged.
        """
        return {self._below(path): read_json(path) for path in self._of_evaluations("evaluation.json")}

    def read_images(self) -> dict[str, list[Row]]:
        """Return the rows of each evaluation's images.csv, by the folder as in `read_evaluations`.

        Raises:
            RunFailed: one is damaged.
        """
        return {self._below(path): read_csv(path) for path in self._of_evaluations("images.csv")}

    def _of_evaluations(self, name: str) -> list[Path]:
        return sorted([*self.path.glob(f"evaluations/*/{name}"), *self.path.glob(f"evaluation/{name}")])

    def _below(self, path: Path) -> str:
        return path.parent.relative_to(self.path).as_posix()

    def read_sweep(self) -> dict[str, Any]:
        """Return what sweep.json says, in the folder of the sweep that this run is part of; {} if it is in none.

        Raises:
            RunFailed: it is damaged.
        """
        path = self.path.parent / "sweep.json"
        return read_json(path) if path.exists() else {}

    def sizes(self) -> dict[str, int]:
        """Return the bytes of each metrics file, for a checkpoint."""
        return {log: (self.path / log).stat().st_size for log in LOGS if (self.path / log).exists()}

    def cut_back(self, sizes: Mapping[str, int]) -> None:
        """Delete rows written after a checkpoint: those of a round that will be repeated."""
        for log in LOGS:
            if (self.path / log).exists():
                os.truncate(self.path / log, sizes.get(log, 0))

    def record(self) -> dict[str, Any]:
        """Return record.json, {} before the first `update_record`. Raise RunFailed if it is damaged."""
        path = self.path / "record.json"
        return read_json(path) if path.exists() else {}

    def complete(self, num_rounds: int) -> bool:
        """Return whether a run of that many rounds is done, or ended itself before."""
        record = self.record()
        return record.get("state") == "completed" and (
            record.get("rounds", 0) >= num_rounds or bool(record.get("stopped"))
        )

    def update_record(self, **facts: Any) -> None:
        """Set these keys of record.json."""
        record = self.record() | facts
        data = (json.dumps(record, indent=2) + "\n").encode()
        try:
            write_atomically(self.path / "record.json", data)
        except OSError:
            if not (self.path / RESERVE).exists():
                raise
            (self.path / RESERVE).unlink(missing_ok=True)
            write_atomically(self.path / "record.json", data)
