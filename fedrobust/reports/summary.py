"""Mean and spread over seeds: a row per group and model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from fedrobust.reports.labels import UNKNOWN, missing
from fedrobust.reports.results import metrics


def summarise(table: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Of `results`, the number of seeds n and for each accuracy `<name>.mean` and `<name>.std` (over n - 1).

    Runs that repeat a seed of their group are averaged first: they are no further evidence. A mean that not every seed
    has a part in is left out, so is an accuracy without any, and the standard deviation of one seed. Rows are in the
    order of the columns' values; runs without a model or a config are in none.
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
            means = [np.mean([row[name] for row in runs]) for runs in seeds]  # NaN where one has none
            rows[-1] |= {f"{name}.mean": np.mean(means), f"{name}.std": np.std(means, ddof=1) if n > 1 else np.nan}
    found = pd.DataFrame(rows, columns=None if rows else [*keys, "n"])
    # natural accuracy stays: a table of accuracies without any would be none
    empty = [name for name in names[1:] if all(missing(row[f"{name}.mean"]) for row in rows)] if rows else []
    return found.drop(columns=[f"{name}.{moment}" for name in empty for moment in ("mean", "std")])


def mean_and_std(row: pd.Series, name: str) -> str:
    """In percent: "43.1 ± 1.2", "43.1" of one seed, "–" where there is no mean."""
    mean, std = row[f"{name}.mean"], row[f"{name}.std"]
    if missing(mean):
        return UNKNOWN
    return f"{100 * mean:.1f}" + ("" if missing(std) else f" ± {100 * std:.1f}")
