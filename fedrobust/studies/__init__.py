"""Studies: named grids of runs that answer one question, and sweeps that carry them out.

A study is a TOML file beside this one, or anywhere:

    description = "the question that it answers"
    preset = "cifar10-smoke"                    # what all its runs start from
    seeds = [0, 1, 2]
    skip = [{ pool.fraction = 0, pool.mode = "replace" }]   # cells left out: those with all of these values

    [settings]                                  # over the preset, for all runs
    num-rounds = 40

    [choices.method.calfat]                     # an axis "method" whose value "calfat" is a group of settings
    strategy.name = "calfat"
    local.learning-rate = 0.002

    [axes]                                      # an axis that is one setting
    pool.fraction = [0, 0.1, 0.4]

Its runs are every combination of choices, axes and seeds.

`running` and the packages above may import it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from fedrobust.config import FIELDS, toml
from fedrobust.config.names import split_list, unknown
from fedrobust.errors import ConfigError
from fedrobust.presets import load_preset

FOLDER = Path(__file__).parent
OF_SEEDS = "each run has one of the study's seeds; set seeds = [0, 1, 2]"
KEYS = ("description", "preset", "seeds", "skip", "settings", "choices", "axes")

Settings = dict[str, Any]
Point = dict[str, Any]
"""Axis → the run's value on it, the seed included."""


@dataclass(frozen=True)
class Study:
    """A grid of runs. `axes`: axis → label of a value → the settings that it stands for."""

    name: str
    description: str
    settings: Mapping[str, Any]
    axes: Mapping[str, Mapping[str, Settings]]
    seeds: tuple[int, ...]
    skip: tuple[Mapping[str, tuple[str, ...]], ...]
    typed: frozenset[str] = frozenset()
    """Settings that a user typed: those of a user's file, without its preset's."""

    def cells(self) -> Iterator[tuple[Point, Settings]]:
        """Yield each run's point and its settings over the defaults; the seed varies fastest."""
        for labels in product(*self.axes.values()):
            point = dict(zip(self.axes, labels, strict=True))
            if any(all(point[axis] in values for axis, values in rule.items()) for rule in self.skip):
                continue
            settings = dict(self.settings)
            for axis, label in point.items():
                settings |= self.axes[axis][label]
            for seed in self.seeds:
                yield point | {"seed": str(seed)}, settings | {"seed": seed}

    def with_seeds(self, seeds: str) -> Study:
        """Return the study with other seeds, comma-separated. Raise ConfigError for anything except whole numbers."""
        try:
            return replace(self, seeds=_seeds([int(seed) for seed in split_list(seeds)]))
        except ValueError:
            raise ConfigError(f"--seeds {seeds!r}: must be whole numbers ≥ 0, such as 0,1,2") from None


def study_names() -> list[str]:
    """Return the names of the studies that come with the package."""
    return toml.shipped(FOLDER)


def load_study(name: str) -> Study:
    """Return the study of that name, or the one in a TOML file at that path.

    Raises:
        ConfigError: no such study, or one with another structure; the message names the key.
    """
    path = toml.locate(FOLDER, "study", name)
    table = toml.read(path)
    for key in table:
        if key not in KEYS:
            raise ConfigError(f"{path.name}: {unknown('key', key, KEYS)}")
    if not isinstance(table.get("preset"), str):
        raise ConfigError(f"{path.name}: preset: must name the preset that all runs start from")
    preset, settings = load_preset(table["preset"]), toml.flatten(toml.table(path, table, "settings"))
    for key in settings:
        _known(path, "settings", key)
    choices, single = _choices(path, table), _axes(path, toml.flatten(toml.table(path, table, "axes")))
    if twice := sorted(choices.keys() & single.keys()):
        raise ConfigError(f"{path.name}: {twice[0]}: is in choices and in axes; call the choice differently")
    axes = choices | single
    try:
        seeds = _seeds(table.get("seeds", [0]))
    except ValueError:
        raise ConfigError(f"{path.name}: seeds = {table['seeds']!r}: must be a list of whole numbers ≥ 0") from None
    rules = table.get("skip", [])
    if not isinstance(rules, list):
        raise ConfigError(f"{path.name}: skip = {rules!r}: must be a list of tables, of axis = value")
    skip = tuple(_rule(path, rule, axes) for rule in rules)
    typed = frozenset[str]()
    if path.parent != FOLDER:
        typed = preset.typed.union(settings, *(group for values in axes.values() for group in values.values()))
    return Study(
        path.stem, toml.text(path, table, "description"), {**preset.settings, **settings}, axes, seeds, skip, typed
    )


def _seeds(found: Any) -> tuple[int, ...]:
    """Return the seeds; raise ValueError for anything except a list of different whole numbers ≥ 0."""
    if not isinstance(found, list) or not found or len(set(map(str, found))) < len(found):
        raise ValueError
    if not all(type(seed) is int and seed >= 0 for seed in found):
        raise ValueError
    return tuple(found)


def _choices(path: Path, table: Mapping[str, Any]) -> dict[str, dict[str, Settings]]:
    axes: dict[str, dict[str, Settings]] = {}
    for axis, values in toml.table(path, table, "choices").items():
        groups = values.values() if isinstance(values, Mapping) else ()
        if not groups or not all(isinstance(group, Mapping) for group in groups):
            raise ConfigError(f"{path.name}: choices.{axis}: must be tables, [choices.{axis}.NAME], of settings")
        if axis == "seed":
            raise ConfigError(f"{path.name}: choices.seed: {OF_SEEDS}")
        axes[axis] = {label: toml.flatten(group) for label, group in values.items()}
        for label, group in axes[axis].items():
            for key in group:
                _known(path, f"choices.{axis}.{label}", key)
    return axes


def _axes(path: Path, table: Mapping[str, Any]) -> dict[str, dict[str, Settings]]:
    axes: dict[str, dict[str, Settings]] = {}
    for key, values in table.items():
        _known(path, "axes", key)
        if not isinstance(values, list) or not values:
            raise ConfigError(f"{path.name}: axes.{key} = {values!r}: must be a list of values")
        axes[key] = {str(value): {key: value} for value in values}
        if len(axes[key]) < len(values):
            raise ConfigError(f"{path.name}: axes.{key} = {values!r}: names a value twice")
    return axes


def _known(path: Path, where: str, key: str) -> None:
    if key not in FIELDS:
        raise ConfigError(f"{path.name}: {where}: {unknown('setting', key, FIELDS)}")
    if key == "seed":
        raise ConfigError(f"{path.name}: {where}.seed: {OF_SEEDS}")
    if key in ("run-dir", "resume"):
        raise ConfigError(f"{path.name}: {where}.{key}: each run has a folder of its own below --out; leave it out")


def _rule(path: Path, rule: Any, axes: Mapping[str, Mapping[str, Settings]]) -> dict[str, tuple[str, ...]]:
    flat = toml.flatten(rule) if isinstance(rule, Mapping) else {}
    if not flat:
        raise ConfigError(f"{path.name}: skip: {rule!r}: must be a table of axis = value")
    found = {}
    for axis, values in flat.items():
        if axis not in axes:
            raise ConfigError(f"{path.name}: skip: {unknown('axis', axis, axes)}")
        found[axis] = tuple(str(value) for value in (values if isinstance(values, list) else [values]))
        for value in found[axis]:
            if value not in axes[axis]:
                raise ConfigError(f"{path.name}: skip: {unknown(f'value of {axis}', value, axes[axis])}")
    return found
