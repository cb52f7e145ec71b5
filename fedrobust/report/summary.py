"""Mean and spread over seeds: a row per group and model."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from fedrobust.report.labels import UNKNOWN, missing
from fedrobust.report.results import metrics


def summarise(table: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Of `results`, the number of seeds n and for each accuracy `<name>.mean` and `<name>.std` (over n - 1).

    Runs that repeat a seed of their group are averaged first: they are no further evidence. A mean that not every seed
    has a part in is left out, and so is the standard deviation of one seed. Rows are in the order of the columns'
    values; runs without a model or a config are in none.
    """
    names, keys = metrics(table), [*columns, "model"]
    models = table[(table["model"] != "") & table["seed"].notna()]
    if models.empty:
        return pd.DataFrame(columns=[*keys, "n"])
    seeds = models.groupby([*keys, "seed"])[names].mean().groupby(keys)
    n = seeds.size().rename("n")
    every = seeds.count().eq(n, axis=0)
    mean, std = seeds.mean().where(every), seeds.std().where(every)
    spread = {f"{name}.{what}": table[name] for name in names for what, table in (("mean", mean), ("std", std))}
    return pd.concat([n, pd.DataFrame(spread)], axis=1).reset_index()


def mean_and_std(row: pd.Series, name: str) -> str:
    """In percent: "43.1 ± 1.2", "43.1 ± –" of one seed, "–" where there is no mean."""
    mean, std = row[f"{name}.mean"], row[f"{name}.std"]
    if missing(mean):
        return UNKNOWN
    return f"{100 * mean:.1f} ± {UNKNOWN if missing(std) else f'{100 * std:.1f}'}"
