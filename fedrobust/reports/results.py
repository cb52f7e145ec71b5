"""Results of runs: a tidy table with a row per run and model, and its mean and spread over seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fedrobust.reports.groups import Group, describe, group, settings
from fedrobust.reports.labels import UNKNOWN, missing
from fedrobust.reports.runs import Run, common_folder, common_judge, find_runs

DRIFT_ROUNDS = 10  # the last so many that have it are averaged
WHOLE = ("clients", "seed", "round", "test_images", "pool_images", "pool_bytes", "images", "bytes", "peak_memory_bytes")


def results(runs: Sequence[Run], groups: Sequence[Group], target: float | None = None) -> pd.DataFrame:
    """Return a row per run and model: "best", chosen on the validation slice, and "last"; accuracies are on the test
    set.

    A run without a model, because it failed or still runs, has one row with the rest empty. Columns are settings, then
    accuracies, then costs; the settings are the described ones and those that distinguish the groups. With a `target`,
    `rounds_to_<target>` is the first round whose robust accuracy on the validation slice reached it.
    """
    rows = [(run, model) for run in runs for model in run.models or [""]]
    columns = list(groups[0].values) if groups else []
    parts = [
        [_identity(run, columns) | {"model": model} for run, model in rows],
        [_accuracies(run, model) | _evaluated(run, model) for run, model in rows],
        [_costs(run, target) for run, _ in rows],
    ]
    table = pd.concat([pd.DataFrame(part) for part in parts], axis=1)
    whole = [column for column in table if column in WHOLE or str(column).startswith("rounds_to_")]
    return table.astype(dict.fromkeys(whole, "Int64"))


def metrics(table: pd.DataFrame) -> list[str]:
    """Return the accuracies among a table's columns: natural, then each attack's, then those of the worst client."""
    names = [str(column) for column in table if "accuracy" in str(column)]
    return sorted(names, key=lambda name: (name.startswith("worst_client."), not name.endswith("natural_accuracy")))


def _identity(run: Run, columns: Sequence[str]) -> dict[str, Any]:
    own = settings(run)
    seed = run.config.seed if run.config else None
    shown = describe(run) | {column: own.get(column) for column in columns}
    return {"run": run.name, **shown, "seed": seed, "state": run.state}


def _accuracies(run: Run, model: str) -> dict[str, Any]:
    """Return the record's scalars about the model, and the worst client of its round, if clients were asked."""
    result = run.record.get(model, {})
    found = {key: value for key, value in result.items() if key != "loss" and isinstance(value, int | float)}
    row = next((row for row in reversed(run.rounds) if row["round"] == result.get("round")), {})
    worst = "clients.worst_"
    clients = {
        key.replace(worst, "worst_client."): value
        for key, value in row.items()
        if key.startswith(worst) and "accuracy" in key
    }
    return found | clients


def _evaluated(run: Run, model: str) -> dict[str, float]:
    """Return accuracies that `fedrobust evaluate` adds: this model under the run's threat, against other attacks.

    A column names the number of images if it differs from the run's test set.
    """
    result, found = run.record.get(model, {}), {}
    for record in run.evaluations.values():
        assert run.config, "a run without a config is not evaluated"
        threat = str(run.config.attack.epsilon), run.config.attack.norm
        same = (record["epsilon"], record["norm"]) == threat and not record["source"]
        if not same or record["subject"].get("round") != result.get("round"):
            continue
        on = "" if record["num_images"] == result["test_images"] else f" ({record['num_images']:,} images)"
        names = (name for name in record["attacks"] if f"robust_accuracy.{name}" not in result)
        found |= {f"robust_accuracy.{name}{on}": record["accuracy"][name]["accuracy"] for name in names}
    return found


def _costs(run: Run, target: float | None) -> dict[str, Any]:
    record = run.record
    costs = {
        "emd_before": record.get("emd", {}).get("before"),
        "emd_after": record.get("emd", {}).get("after"),
        "pool_images": record.get("pool", {}).get("images"),
        "pool_bytes": record.get("pool", {}).get("bytes_moved"),
        "images": sum(row.get("images", 0) for row in run.rounds),
        "bytes": sum(row.get("bytes", 0) for row in run.rounds),
    }
    if target is not None:
        judged = f"validation.robust_accuracy.{run.judge}"
        costs[f"rounds_to_{target:g}"] = next(
            (row["round"] for row in run.rounds if row.get(judged, -1) >= target), None
        )
    for column, key in (("drift_norm", "drift.update_norm"), ("drift_cosine", "drift.cosine")):
        if values := [row[key] for row in run.rounds if row.get(key) is not None][-DRIFT_ROUNDS:]:
            costs[column] = sum(values) / len(values)
    return costs | {
        "seconds": record.get("seconds"),
        "peak_memory_bytes": record.get("peak_memory_bytes"),
        "started": record.get("started"),
        "commit": record.get("commit", "")[:9],
    }


def summarise(table: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Return the number of seeds n and for each accuracy `<name>.mean` and `<name>.std` (over n - 1) of `results`.

    Runs that repeat a seed of their group are averaged first: they are not independent. A mean that lacks a seed is
    left out, as is an accuracy without any, and the standard deviation of one seed. Rows are in the order of the
    columns' values; runs without a model or a config are in none.
    """
    names, keys = metrics(table), [*columns, "model"]
    members: dict[tuple[Any, ...], dict[int, list[dict[Any, Any]]]] = {}
    for row in table.to_dict("records"):
        if row["model"] and not missing(row["seed"]):
            values = tuple(row[key] for key in keys)
            members.setdefault(values, {}).setdefault(row["seed"], []).append(row)
    rows = []
    for values in sorted(members):
        seeds = members[values].values()
        n = len(seeds)
        rows.append({**dict(zip(keys, values, strict=True)), "n": n})
        for name in names:
            means = [np.mean([row[name] for row in runs]) for runs in seeds]  # NaN if one has none
            rows[-1] |= {f"{name}.mean": np.mean(means), f"{name}.std": standard_deviation(means)}
    found = pd.DataFrame(rows, columns=None if rows else [*keys, "n"])
    # natural accuracy stays: a table of accuracies without any would be none
    empty = [name for name in names[1:] if all(missing(row[f"{name}.mean"]) for row in rows)] if rows else []
    return found.drop(columns=[f"{name}.{moment}" for name in empty for moment in ("mean", "std")])


def standard_deviation(values: Sequence[Any] | np.ndarray) -> float:
    """Return the standard deviation over n − 1; NaN for one value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else np.nan


def mean_and_std(row: Mapping[Any, Any] | pd.Series, name: str, *, factor: float = 100, digits: int = 1) -> str:
    """Return mean and deviation, in percent: "43.1 ± 1.2", "43.1" for one seed, "–" if there is no mean."""
    mean, std = row.get(f"{name}.mean"), row.get(f"{name}.std")
    if mean is None or missing(mean):
        return UNKNOWN
    return f"{factor * mean:.{digits}f}" + ("" if std is None or missing(std) else f" ± {factor * std:.{digits}f}")


@dataclass(frozen=True, eq=False)
class Overview:
    """All runs below some folders.

    title: the name of the nearest folder above them; judge: the attack that figures call robust; target: robust
    accuracy of the column `rounds_to_<target>`, None for no such column.
    """

    title: str
    runs: list[Run]
    groups: list[Group]
    judge: str
    target: float | None = None

    @classmethod
    def of(cls, paths: Iterable[Path], target: float | None = None) -> Overview:
        """Return the overview of the runs at or below these paths. Raise ConfigError if a path has none."""
        runs = find_runs(paths)
        title = runs[0].name if len(runs) == 1 else common_folder(run.folder.path for run in runs).name
        return cls(title, runs, group(runs), common_judge(runs), target)

    @cached_property
    def results(self) -> pd.DataFrame:
        """The results, a row per run and model."""
        return results(self.runs, self.groups, self.target)

    @cached_property
    def summary(self) -> pd.DataFrame:
        """The results over seeds, a row per group and model."""
        return summarise(self.results, list(self.groups[0].values) if self.groups else [])

    def compact(self, table: pd.DataFrame) -> pd.DataFrame:
        """Return a table for reading: of the worst client's accuracies only natural and that under `judge`."""
        kept = ("worst_client.natural_accuracy", f"worst_client.robust_accuracy.{self.judge}")
        names = {column: column.removesuffix(".mean").removesuffix(".std") for column in map(str, table)}
        return table.drop(
            columns=[c for c, name in names.items() if name.startswith("worst_client.") and name not in kept]
        )
