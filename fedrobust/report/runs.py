"""Finished and unfinished runs below some folders, as rows of a table."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fedrobust.errors import ConfigError
from fedrobust.records import RunFolder

POOL_WARNING = "A pool gives raw images to every client by construction: its runs are not private in that part."


def find_runs(paths: Iterable[Path]) -> list[RunFolder]:
    """Every run at or below the paths, oldest first.

    Raises:
        ConfigError: a path has none.
    """
    found: dict[Path, RunFolder] = {}
    for path in paths:
        records = sorted(path.rglob("record.json")) if path.is_dir() else []
        if not records:
            raise ConfigError(f"{path}: no run in it (no record.json)")
        found |= {record.parent: RunFolder(record.parent) for record in records}
    return sorted(found.values(), key=lambda folder: folder.record().get("started", ""))


def result_rows(runs: Iterable[RunFolder]) -> list[dict[str, Any]]:
    """A row per run and model ("best", chosen on the validation slice, and "last"), accuracies on the test set."""
    rows = []
    for folder in runs:
        record, cfg = folder.record(), folder.read_config()
        for model in ("best", "last"):
            if model not in record:
                continue
            rows.append(
                {
                    "run": record.get("name", folder.path.name),
                    "strategy": cfg.strategy.name,
                    "objective": record["objective"],
                    "attack": cfg.attack.name if cfg.attack.name == "fgsm" else f"{cfg.attack.name}-{cfg.attack.steps}",
                    "pool": cfg.pool.fraction,
                    "seed": cfg.seed,
                    "model": model,
                    **{key: value for key, value in record[model].items() if key not in ("loss", "per_class")},
                    "seconds": record["seconds"],
                    "commit": record["commit"][:9],
                }
            )
    return rows


def markdown(rows: list[dict[str, Any]]) -> str:
    """Rows as a Markdown table; accuracies in percent."""
    if not rows:
        return "no finished run\n"
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = ["| " + " | ".join(map(_heading, columns)) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(_cell(column, row.get(column, "")) for column in columns) + " |" for row in rows]
    if any(row.get("pool") for row in rows):
        lines += ["", POOL_WARNING]
    return "\n".join(lines) + "\n"


def _heading(column: str) -> str:
    return column.replace("robust_accuracy.", "").replace("natural_accuracy", "natural").replace("_", " ")


def _cell(column: str, value: Any) -> str:
    if "accuracy" in column and value != "":
        return f"{100 * value:.1f}"
    return f"{value:.0f}" if column == "seconds" else str(value)
