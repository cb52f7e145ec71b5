"""Names to things: one lookup for every registry, those of the layers above included.

Registries are literal dicts beside what they list. Those of the apps ("strategies:STRATEGIES") are reached lazily by
dotted path, as Flower loads the apps, so that no import runs upwards.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from fedrobust.config import WORST_CASE, RunConfig
from fedrobust.config.lookup import lookup
from fedrobust.config.names import split_list
from fedrobust.errors import ConfigError

# kind → where its registry lies, in the order `fedrobust list` shows them
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


def load_path(path: str) -> Any:
    """The object at "package.module:name"."""
    module, name = path.split(":")
    return getattr(import_module(module), name)


def registry(kind: str) -> Mapping[str, Any]:
    """The registry of that kind, a key of REGISTRIES."""
    return load_path(REGISTRIES[kind])


def resolve(kind: str, name: str) -> Any:
    """The entry `name` of a registry.

    Raises:
        ConfigError: "unknown attack 'pdg'; did you mean 'pgd'? known: ...".
    """
    return lookup(SINGULAR.get(kind, kind.removesuffix("s")), registry(kind), name)


def objective_of(cfg: RunConfig) -> str:
    """Return the objective that a run trains with: `objective.name`, or its strategy's own; "at" in a central run."""
    if cfg.objective.name:
        return cfg.objective.name
    return CENTRAL_OBJECTIVE if cfg.kind == "central" else resolve("strategies", cfg.strategy.name).objective


def check_names(cfg: RunConfig) -> None:
    """Every name in the config is in its registry, evaluation attacks and classes of the data included.

    `evaluation.select-by` is checked here, too, after the attacks that it is one of.

    Raises:
        ConfigError: one line for the first name that is not.
        DataError: the same for a class.
    """
    from fedrobust.data import DATASETS, class_numbers
    from fedrobust.evaluation import parse_attack

    flat = cfg.to_flat()
    for key, kind in NAMED_BY.items():
        if flat[key] or key not in MAY_BE_UNSET:
            resolve(kind, str(flat[key]))
    class_numbers(cfg.data.classes, DATASETS[cfg.data.name].class_names)
    attacks = split_list(cfg.evaluation.attacks)
    for name in attacks:
        try:
            parse_attack(name)
        except ConfigError as error:
            raise ConfigError(f"evaluation.attacks: {error}") from error
    judges = ["natural", *([WORST_CASE] if len(set(attacks)) > 1 else [])]
    if cfg.evaluation.select_by not in (*judges, *attacks):
        raise ConfigError(
            f"evaluation.select-by = {cfg.evaluation.select_by!r}: must be {', '.join(judges)} "
            f"or one of evaluation.attacks ({', '.join(attacks)})"
        )
