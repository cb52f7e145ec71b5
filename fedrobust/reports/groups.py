"""Groups of runs that differ only in their seed, and the settings that distinguish the groups."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fedrobust.reports import labels
from fedrobust.reports.runs import Run

Value = bool | int | float | str

# where and how often a run was made and looked at, not what it is
INCIDENTAL = ("seed", "run-dir", "resume", "device", "data.dir", "workers.", "evaluation.")
# shown wherever they vary, even where another setting decides them; their order is that of `describe`
ALWAYS = ("strategy", "skew", "clients", "pool", "mode", "start", "data", "network", "activation", "attack")


@dataclass(frozen=True, eq=False)
class Group:
    """Runs with the same settings and any seeds.

    values: the settings that distinguish the groups, with equal columns in each.
    """

    values: dict[str, Value]
    runs: tuple[Run, ...]

    @property
    def name(self) -> str:
        """The group's values in words."""
        return ", ".join(labels.phrase(column, value) for column, value in self.values.items() if value != "")


def describe(run: Run) -> dict[str, Value]:
    """Return a run's main settings in the words of the tables; {} without a config.

    `pool` is the fraction; `mode` is "" without a pool or without clients.
    """
    cfg = run.config
    if cfg is None:
        return {}
    return {
        "strategy": labels.method(cfg),
        "skew": labels.skew(cfg) if cfg.kind == "federated" else "",
        "clients": cfg.num_clients if cfg.kind == "federated" else 1,
        "pool": cfg.pool.fraction,
        "mode": cfg.pool.mode if cfg.pool.fraction and cfg.kind == "federated" else "",
        "start": "warm start" if cfg.init else "from scratch",
        "data": labels.data(cfg),
        "network": labels.network(cfg),
        "activation": cfg.model.activation,
        "objective": run.record.get("objective", cfg.objective.name),
        "attack": labels.attack(cfg),
    }


def settings(run: Run) -> dict[str, Value]:
    """Return `describe`, and every setting by its flat key that is not incidental; {} without a config."""
    if run.config is None:
        return {}
    flat = {key: value for key, value in run.config.to_flat().items() if not key.startswith(INCIDENTAL)}
    if not run.config.pool.fraction:
        flat |= {"pool.mode": "", "pool.share": ""}
    if not run.config.model.backward_activation:
        flat |= {"model.backward-phase": ""}
    return describe(run) | flat


def group(runs: Iterable[Run]) -> list[Group]:
    """Return the groups of the runs that have results, in the order of their values.

    Their columns are the described settings that vary, and of all others the fewest that distinguish any two settings:
    a learning rate that always goes with its strategy is left out. A single group is named by its strategy.
    """
    measured = [run for run in runs if run.config and (run.rounds or run.models)]
    table = [settings(run) for run in measured]
    columns = _telling(table) if table else []
    members: dict[tuple[Value, ...], list[Run]] = {}
    for run, row in zip(measured, table, strict=True):
        members.setdefault(tuple(row[column] for column in columns), []).append(run)
    ordered = sorted(members, key=lambda values: [(isinstance(value, str), value) for value in values])
    return [Group(dict(zip(columns, values, strict=True)), tuple(members[values])) for values in ordered]


def _telling(table: Sequence[dict[str, Value]]) -> list[str]:
    federations = [row for row in table if row["skew"]]  # that a central run has one client is no choice
    shown = [key for key in ALWAYS if _varies(federations if key == "clients" else table, key)]
    for key in table[0]:
        if not _decided(table, key, shown):
            shown.append(key)
    return sorted(shown, key=list(table[0]).index) or ["strategy"]


def _varies(table: Sequence[dict[str, Value]], key: str) -> bool:
    return len({row[key] for row in table} - {""}) > 1


def _decided(table: Sequence[dict[str, Value]], key: str, by: Sequence[str]) -> bool:
    """Return whether rows that agree in `by` agree in `key`."""
    seen = [tuple(row[column] for column in by) for row in table]
    return len(set(seen)) == len({(*values, row[key]) for values, row in zip(seen, table, strict=True)})
