"""Settings and columns in words, for legends, table heads and cells."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fedrobust.config import FIELDS, RunConfig
from fedrobust.config.names import split_list

UNKNOWN = "–"


def skew(cfg: RunConfig) -> str:
    """Return the label skew with the scheme's parameter: "IID", "Dir(0.1)", "shards(2)"."""
    partition = cfg.partition
    return {
        "iid": "IID",
        "dirichlet": f"Dir({partition.concentration:g})",
        "dirichlet-balanced": f"balanced Dir({partition.concentration:g})",
        "shards": f"shards({partition.classes_per_client})",
        "dominant": f"dominant({_percent(partition.dominant_share)}, {partition.classes_per_client})",
    }.get(partition.scheme, partition.scheme)


def attack(cfg: RunConfig) -> str:
    """Return the training attack with its steps: "fgsm", "pgd-10"."""
    return cfg.attack.name if cfg.attack.name == "fgsm" else f"{cfg.attack.name}-{cfg.attack.steps}"


def network(cfg: RunConfig) -> str:
    """Return the model, with its width if that is not 1: "resnet18", "resnet18 × 0.25"."""
    return cfg.model.name if cfg.model.width == 1 else f"{cfg.model.name} × {cfg.model.width:g}"


def method(cfg: RunConfig) -> str:
    """Return the strategy of a federation; "central" for a central run, or "pool alone" if it trains on the pool."""
    if cfg.kind == "federated":
        return cfg.strategy.name
    return "central" if cfg.central.images == "all" else "pool alone"


def data(cfg: RunConfig) -> str:
    """Return the data set, with its classes if a run is restricted to some: "digits", "digits (3, 8)"."""
    classes = ", ".join(split_list(cfg.data.classes))
    return f"{cfg.data.name} ({classes})" if classes else cfg.data.name


def partition(cfg: RunConfig) -> str:
    """Return a line on the partition: data set, skew, clients, pool, seed."""
    pool = f", {_percent(cfg.pool.fraction)} pool ({cfg.pool.mode})" if cfg.pool.fraction else ""
    return f"{data(cfg)}, {skew(cfg)}, {cfg.num_clients} clients{pool}, seed {cfg.seed}"


def phrase(column: str, value: Any) -> str:
    """Return a setting as part of a sentence: "20 % pool", "5 clients", "attack.epsilon 8/255"; names do not change."""
    if column == "pool":
        return f"{_percent(value)} pool" if value else "no pool"
    if column == "clients":
        return "1 client" if value == 1 else f"{value} clients"
    if column in _PHRASES:
        return _PHRASES[column].format(value)
    return f"{column} {value}" if column in ("objective", *FIELDS) else str(value)


def heading(column: str) -> str:
    """Return a column's head in a table."""
    if column in _COLUMNS:
        return _COLUMNS[column][0]
    for name, words in (
        ("worst_client.", "worst client "),
        ("robust_accuracy.", ""),
        ("natural_accuracy", "natural"),
        ("worst-case", "worst case"),
        ("_", " "),
    ):
        column = column.replace(name, words)
    return column


def cell(column: str, value: Any) -> str:
    """Return a value as a cell: accuracies and the pool in percent, memory and traffic in MiB, "–" if it is missing."""
    if missing(value):
        return UNKNOWN
    if column in _COLUMNS:
        return _COLUMNS[column][1](value)
    return f"{100 * value:.1f}" if "accuracy" in column else str(value)


def missing(value: Any) -> bool:
    """Return whether a value is None, pandas' NA, NaN or ""."""
    return str(value) in ("", "None", "nan", "<NA>")


def _percent(share: float) -> str:
    return f"{100 * share:g} %"


def _mebibytes(count: float) -> str:
    return f"{count / 2**20:.1f}"


def _thousands(count: float) -> str:
    return f"{count:,.0f}"


_PHRASES = {"model.backward-activation": "backward {}", "model.backward-phase": "in {}"}
_COLUMNS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "model.backward-activation": ("backward", str),
    "model.backward-phase": ("where", str),
    "pool": ("pool", _percent),
    "emd_before": ("EMD before", "{:.2f}".format),
    "emd_after": ("EMD after", "{:.2f}".format),
    "pool_images": ("pool images", _thousands),
    "pool_bytes": ("pool moved, MiB", _mebibytes),
    "images": ("images trained", _thousands),
    "bytes": ("model traffic, MiB", _mebibytes),
    "drift_norm": ("drift norm", "{:.3g}".format),
    "drift_cosine": ("drift cosine", "{:.3f}".format),
    "seconds": ("seconds", "{:.0f}".format),
    "peak_memory_bytes": ("peak memory, MiB", lambda count: f"{count / 2**20:.0f}"),
}
