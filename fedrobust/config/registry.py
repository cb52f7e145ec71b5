"""Names to entries: one lookup for every registry, including those in packages that import this one.

Registries are literal dicts in the packages of their entries. The registries of the apps ("strategies:STRATEGIES") are
loaded by dotted path when first used, as Flower loads the apps, so that this package imports none above it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from inspect import Parameter, signature
from typing import Any, TypeVar

from fedrobust.config import RunConfig
from fedrobust.config.names import unknown
from fedrobust.errors import ConfigError

T = TypeVar("T")

# kind → dotted path of its registry, in the order in which `fedrobust list` prints them
REGISTRIES = {
    "strategies": "strategies:STRATEGIES",
    "objectives": "fedrobust.objectives:OBJECTIVES",
    "attacks": "fedrobust.attacks:ATTACKS",
    "suite": "fedrobust.evaluation.suite:SUITE",
    "flags": "fedrobust.evaluation.flags:FLAGS",
    "models": "fedrobust.models:MODELS",
    "activations": "fedrobust.models:ACTIVATIONS",
    "partitions": "partitions:PARTITIONS",
    "datasets": "fedrobust.data:DATASETS",
    "engines": "fedrobust.engines:ENGINES",
}

# setting → kind of the name it takes
NAMED_BY = {
    "strategy.name": "strategies",
    "objective.name": "objectives",
    "attack.name": "attacks",
    "model.name": "models",
    "model.activation": "activations",
    "model.backward-activation": "activations",
    "partition.scheme": "partitions",
    "data.name": "datasets",
}
CENTRAL_OBJECTIVE = "at"
MAY_BE_UNSET = ("objective.name", "model.backward-activation")
SINGULAR = {"strategies": "strategy", "datasets": "data set", "partitions": "partition scheme"}


def lookup(kind: str, registry: Mapping[str, T], name: str) -> T:
    """Return the entry called `name`.

    Raises:
        ConfigError: there is none. The message names the nearest: "unknown attack 'pdg'; did you mean 'pgd'?"
    """
    if name not in registry:
        raise ConfigError(unknown(kind, name, registry))
    return registry[name]


def bind_settings(
    kind: str, registry: Mapping[str, Callable[..., T]], name: str, settings: Mapping[str, Any]
) -> partial[T]:
    """Return the entry called `name` with those of `settings` bound that it takes by keyword.

    One set of settings serves a whole registry: settings that only other entries take are left out, and None means that
    a setting is left out. A setting that no entry takes is an error.

    Raises:
        ConfigError: unknown name.
        ValueError: a setting that no entry takes, or a missing one that this entry needs.
    """
    function = lookup(kind, registry, name)
    known = {key for entry in registry.values() for key in settings_of(entry)}
    for key in settings:
        if key not in known:
            raise ValueError(unknown(f"{kind} setting", key, sorted(known)))
    taken = settings_of(function)
    bound = {key: value for key, value in settings.items() if key in taken and value is not None}
    for key, parameter in taken.items():
        if parameter.default is Parameter.empty and key not in bound:
            raise ValueError(f"{kind} {name!r} needs {key}")
    return partial(function, **bound)


def settings_of(function: Callable[..., Any]) -> dict[str, Parameter]:
    """Return the settings that an entry takes: its parameters that are given by keyword only."""
    return {k: p for k, p in signature(function).parameters.items() if p.kind is Parameter.KEYWORD_ONLY}


def load_path(path: str) -> Any:
    """Return the object at "package.module:name"."""
    module, name = path.split(":")
    return getattr(import_module(module), name)


def registry(kind: str) -> Mapping[str, Any]:
    """Return the registry of that kind, a key of REGISTRIES."""
    return load_path(REGISTRIES[kind])


def resolve(kind: str, name: str) -> Any:
    """Return the entry `name` of a registry.

    Raises:
        ConfigError: "unknown attack 'pdg'; did you mean 'pgd'? known: ...".
    """
    return lookup(SINGULAR.get(kind, kind.removesuffix("s")), registry(kind), name)


def objective_of(cfg: RunConfig) -> str:
    """Return the objective that a run trains with: `objective.name`, or the default of its strategy; "at" in a central
    run.
    """
    if cfg.objective.name:
        return cfg.objective.name
    return CENTRAL_OBJECTIVE if cfg.kind == "central" else resolve("strategies", cfg.strategy.name).objective


def check_entries(cfg: RunConfig) -> None:
    """Check that each setting that names an entry of a registry names an existing one.

    `fedrobust.running.preflight.check_names` also checks the names whose registries lie in packages above.

    Raises:
        ConfigError: one line for the first unknown name.
    """
    flat = cfg.to_flat()
    for key, kind in NAMED_BY.items():
        if flat[key] or key not in MAY_BE_UNSET:
            resolve(kind, str(flat[key]))
