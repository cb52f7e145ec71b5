"""Packed runs: the measurements of a study in a few files that people and spreadsheets read, without models.

runs.jsonl has a line per run: its name, record, settings, evaluations, partition, and the sweep it is part of.
rounds.csv, clients.csv and images.csv hold the rows of all runs, the run's name in the first column.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

from fedrobust.config import RunConfig, todays_meaning
from fedrobust.errors import ConfigError, RunFailed
from fedrobust.storage.csv_rows import Row, read_csv, to_csv
from fedrobust.storage.files import write_atomically
from fedrobust.storage.run_folder import CLIENTS, PACKED, ROUNDS, RunFolder

IMAGES = "images.csv"
TABLES = {ROUNDS: "rounds.csv", CLIENTS: "clients.csv"}  # metrics file of a run's folder → table of all runs
PARTS = ("record", "evaluations", "partition", "sweep", "digests")  # what every line has, as objects, beside its config


class PackedRun:
    """A packed run's measurements, read as those in a run's folder.

    packed: the folder of the packed runs; path: the place in it that a run's folder of this name would have.
    """

    at_work = False

    def __init__(
        self,
        packed: Path,
        line: Mapping[str, Any],
        logs: Mapping[str, list[Row]],
        images: Callable[[], Mapping[str, list[Row]]],
    ) -> None:
        self.packed, self.path = packed, packed / line["run"]
        self._line, self._logs, self._images = line, logs, images

    def record(self) -> dict[str, Any]:
        """Return the run's record."""
        return self._line["record"]

    def read_flat_config(self) -> dict[str, Any] | None:
        """Return the settings as they were written; None if the run did not come to round 1."""
        return self._line["config"]

    def read_config(self) -> RunConfig:
        """Return the config the run was started with.

        Raises:
            ConfigError: there is none, or one of another version.
        """
        flat = self.read_flat_config()
        if flat is None:
            raise ConfigError(f"{self.path}: no config")
        return RunConfig.from_flat(todays_meaning(flat))

    def read(self, log: str) -> list[Row]:
        """Return the run's rows of rounds.jsonl or clients.jsonl."""
        return self._logs[log]

    def read_partition(self) -> dict[str, list[Any]]:
        """Return the columns of the run's partition, a value per client in each; {} if none was kept."""
        return self._line["partition"]

    def read_evaluations(self) -> dict[str, dict[str, Any]]:
        """Return the record of each evaluation, by its folder as seen from the run's."""
        return deepcopy(self._line["evaluations"])

    def read_images(self) -> dict[str, list[Row]]:
        """Return the rows per image of each evaluation, by the folder as in `read_evaluations`.

        Raises:
            RunFailed: the table is damaged.
        """
        if IMAGES not in self._line["digests"]:
            return {}
        rows = self._images().get(self._line["run"], [])
        _check(rows, self._line, IMAGES)
        found: dict[str, list[Row]] = {}
        for row in rows:
            found.setdefault(row["evaluation"], []).append({key: row[key] for key in row if key != "evaluation"})
        return found

    def read_sweep(self) -> dict[str, Any]:
        """Return the record of the sweep that the run is part of; {} if it is in none."""
        return self._line["sweep"]


def write_packed(runs: Mapping[str, RunFolder | PackedRun], folder: Path) -> dict[str, str]:
    """Pack runs, by their names, into a folder. Return those that could not be read, with the reason.

    Raises:
        RunFailed: none of the runs can be read.
        OSError: the folder cannot be written.
    """
    lines, left_out = list[str](), dict[str, str]()
    tables: dict[str, list[Row]] = {table: [] for table in (*TABLES.values(), IMAGES)}
    for name, run in sorted(runs.items()):
        try:
            line, own = _pack(name, run)
        except RunFailed as error:
            left_out[name] = str(error)
            continue
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
        for table, rows in own.items():
            tables[table] += [{"run": name} | row for row in rows]
    if not lines:
        raise RunFailed("; ".join(f"{name}: {reason}" for name, reason in left_out.items()))
    folder.mkdir(parents=True, exist_ok=True)
    for table, rows in tables.items():
        if rows:
            write_atomically(folder / table, to_csv(rows).encode())
    write_atomically(folder / PACKED, "".join(lines).encode())  # last: with it the folder is one of packed runs
    return left_out


def _pack(name: str, run: RunFolder | PackedRun) -> tuple[dict[str, Any], dict[str, list[Row]]]:
    """Return a run's line of runs.jsonl, and its rows of each table."""
    images = [{"evaluation": key} | row for key, rows in run.read_images().items() for row in rows]
    rows = {table: run.read(log) for log, table in TABLES.items()} | {IMAGES: images}
    line = {
        "run": name,
        "record": run.record(),
        "config": run.read_flat_config(),
        "evaluations": run.read_evaluations(),
        "partition": run.read_partition(),
        "sweep": run.read_sweep(),
        "digests": {table: _digest(own) for table, own in rows.items() if own},
    }
    return line, rows


def read_packed(folder: Path) -> dict[Path, PackedRun | str]:
    """Return the packed runs in a folder by their paths, and what is damaged by its place, with the reason.

    A damaged line or row costs its run only.
    """
    try:
        lines = (folder / PACKED).read_text(encoding="utf-8", errors="replace").rstrip("\n").split("\n")
    except OSError as error:
        return {folder / PACKED: f"cannot be read ({error.strerror})"}
    found: dict[Path, PackedRun | str] = {}
    entries = list[dict[str, Any]]()
    for number, text in enumerate(lines, 1):
        try:
            entries.append(_line(text))
        except ValueError as error:
            found[folder / f"{PACKED}:{number}"] = f"damaged ({error})"
    tables: dict[str, dict[str, list[Row]]] = {}
    for table in TABLES.values():
        try:
            needed = any(table in entry["digests"] for entry in entries)
            tables[table] = _by_run(read_csv(folder / table)) if needed else {}
        except RunFailed as error:
            found[folder / table] = str(error).removeprefix(f"{folder / table}: ")
    images = cache(lambda: _by_run(read_csv(folder / IMAGES)))  # a large table that no report needs
    for entry in entries:
        if not tables.keys() >= entry["digests"].keys() - {IMAGES}:
            continue  # its rows are in a file that cannot be read, which has a line of its own
        run, logs = entry["run"], {log: tables.get(table, {}).get(entry["run"], []) for log, table in TABLES.items()}
        try:
            for log, table in TABLES.items():
                _check(logs[log], entry, table)
            found[folder / run] = PackedRun(folder, entry, logs, images)
        except RunFailed as error:
            found[folder / run] = str(error)
    return found


def _line(text: str) -> dict[str, Any]:
    """Return what a line of runs.jsonl says. Raise ValueError if it is damaged."""
    line = json.loads(text)
    if not isinstance(line, dict) or not isinstance(line.get("run"), str):
        raise ValueError("no run's name")
    for part in PARTS:
        if not isinstance(line.get(part), dict):
            raise ValueError(f"no {part} of {line['run']}")
    if not isinstance(line.get("config", ""), dict | None):
        raise ValueError(f"no config of {line['run']}")
    return line


def _by_run(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Return a table's rows by the run they name, without that name."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(str(row.pop("run", "")), []).append(row)
    return found


def _check(rows: list[Row], line: Mapping[str, Any], table: str) -> None:
    """Raise RunFailed unless these rows are those that were packed."""
    if line["digests"].get(table) != (_digest(rows) if rows else None):
        raise RunFailed(f"{table}: damaged (the run's {len(rows)} rows are not those that were packed)")


def _digest(rows: list[Row]) -> str:
    return blake2b(json.dumps(rows, sort_keys=True).encode(), digest_size=8).hexdigest()
