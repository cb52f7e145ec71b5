"""Settings that have no effect on a run, and values that disable the method that a run is named after."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from fedrobust.config import FIELDS, RunConfig
from fedrobust.config.names import split_list
from fedrobust.config.registry import check_entries, objective_of, registry, settings_of
from fedrobust.errors import ConfigError

STEPPED = ("pgd-", "bim-", "mim-")
"""Prefixes of the names of evaluation attacks that take `evaluation.step-size`."""


_NO_VALIDATION = "only validation images use it: set data.validation-fraction above 0"


def refuse_unused(
    runs: Mapping[str, RunConfig], typed: Collection[str], *, engine: str = ""
) -> dict[str, dict[str, str]]:
    """Return the result of `unused` for each run that a command begins.

    Args:
        runs: label → config.
        typed: flat keys that the user set, as flags or in a file of their own; a preset's and a study's are not.
        engine: the engine that the user asked for.

    Raises:
        ConfigError: a name is in no registry, or no run uses a typed setting: one line per setting names what would use
            it.
    """
    for cfg in runs.values():
        check_entries(cfg)
    found = {label: unused(cfg, engine) for label, cfg in runs.items()}
    problems = []
    for key in typed:
        if found and all(key in reasons for reasons in found.values()):
            label, reasons = next(iter(found.items()))
            problems.append(f"{key} = {runs[label].to_flat()[key]!r}: has no effect: {reasons[key]}")
    if problems:
        raise ConfigError("\n".join(problems))
    return found


def unused(cfg: RunConfig, engine: str = "") -> dict[str, str]:
    """Return the flat key of each setting that has no effect on this run, with what would use it."""
    return dict(_by_entry(cfg)) | dict(_by_other_settings(cfg, engine))


def _by_entry(cfg: RunConfig) -> Iterator[tuple[str, str]]:
    """Yield settings that only other entries of a registry take than the chosen one."""
    strategies = {name: set(strategy.settings) for name, strategy in registry("strategies").items()}
    objectives, attacks, partitions = (_taken(registry(kind)) for kind in ("objectives", "attacks", "partitions"))
    objective = objective_of(cfg)
    for section, kind, chosen, takers in (
        ("strategy", "strategy", cfg.strategy.name, strategies),
        ("objective", "objective", objective, objectives),
        ("attack", "attack", cfg.attack.name, attacks),
        ("partition", "partition scheme", cfg.partition.scheme, partitions),
    ):
        for key in _keys(section):
            name = key.removeprefix(f"{section}.").replace("-", "_")
            users = [entry for entry, taken in takers.items() if name in taken]
            if users and chosen not in users:
                yield key, f"{kind} {chosen} does not take it, {_either(users)} would"
    if "attack" not in objectives[objective]:
        users = [entry for entry, taken in objectives.items() if "attack" in taken]
        for key in _keys("attack", besides=("epsilon", "norm")):
            yield key, f"objective {objective} makes no adversarial examples, {_either(users)} would"


def _by_other_settings(cfg: RunConfig, engine: str) -> Iterator[tuple[str, str]]:
    """Yield settings that another setting must enable."""
    central, data, model = cfg.central, cfg.data, cfg.model
    is_central = cfg.kind == "central"
    evaluated = split_list(cfg.evaluation.attacks)
    from_data_sets = registry("datasets")[data.name].torchvision is not None
    rules: list[tuple[bool, Collection[str], str]] = [
        (not is_central, _keys("central"), "only a central run uses it (fedrobust central)"),
        (is_central, [*_keys("strategy"), *_keys("partition"), "num-clients", "data.own"], "only a federation uses it"),
        (
            is_central,
            ["pool.share", "pool.mode", "evaluation.clients-every", "evaluation.probe-images"],
            "only a federation uses it",
        ),
        (is_central, _keys("workers", besides=("threads",)), "only a federation uses it"),
        (engine == "local", _keys("workers", besides=("threads",)), "only engines ray and flwr use it"),
        (data.own, _keys("partition", besides=("held-out",)), "the clients' images are their own (data.own)"),
        (not from_data_sets, ["data.dir"], f"{data.name} comes with scikit-learn and is not read from a folder"),
        (not cfg.pool.fraction, ["pool.share", "pool.mode"], "only a pool uses it: set pool.fraction above 0"),
        (bool(cfg.local.steps), ["local.epochs"], f"local.steps = {cfg.local.steps} is used instead: set it to 0"),
        (
            not model.backward_activation,
            ["model.backward-phase"],
            "only model.backward-activation uses it, which is unset",
        ),
        (not data.validation_fraction, ["evaluation.select-by", "evaluation.validation-images"], _NO_VALIDATION),
        (
            not any(name.startswith(STEPPED) for name in evaluated)
            and (not is_central or central.overfitting == "ignore"),
            ["evaluation.step-size"],
            "only pgd-K, bim-K and mim-K among evaluation.attacks use it",
        ),
        (
            central.schedule != "piecewise",
            ["central.milestones", "central.decay"],
            "only central.schedule piecewise uses it",
        ),
        (central.schedule != "cyclic", ["central.peak"], "only central.schedule cyclic uses it"),
        (central.average != "ema", ["central.average-decay"], "only central.average ema uses it"),
        (central.average == "none", ["central.average-start"], "only central.average ema and swa use it"),
        (not cfg.objective.awp_gamma, ["central.awp-start"], "only objective.awp-gamma above 0 uses it"),
    ]
    for holds, keys, users in reversed(rules):  # the first rule has the last word
        if holds:
            yield from ((key, users) for key in keys)


def _keys(section: str, besides: Collection[str] = ()) -> list[str]:
    """Return the flat keys of a section."""
    return [key for key in FIELDS if key.startswith(f"{section}.") and key.split(".")[1] not in besides]


def _taken(entries: Mapping[str, Callable[..., Any]]) -> dict[str, set[str]]:
    return {name: set(settings_of(entry)) for name, entry in entries.items()}


def _either(names: list[str]) -> str:
    return " or ".join((", ".join(names[:-1]), names[-1])) if len(names) > 1 else names[0]


def limit_cases(cfg: RunConfig) -> list[str]:
    """Return a line for each setting of a run that makes it a simpler run than its names say."""
    objective, strategy = objective_of(cfg), cfg.strategy.name if cfg.kind == "federated" else ""
    return [
        f"{setting}: {meaning}"
        for holds, setting, meaning in (
            (
                not cfg.attack.epsilon,
                f"attack.epsilon = {cfg.attack.epsilon}",
                "nothing is attacked, in training or evaluation: robust accuracy is natural accuracy",
            ),
            (
                objective == "mixed" and not cfg.objective.adversarial_fraction,
                "objective.adversarial-fraction = 0",
                "nothing is attacked in training",
            ),
            (
                objective == "mixed" and cfg.objective.adversarial_fraction == 1,
                "objective.adversarial-fraction = 1",
                "all images are attacked in training: mixed is at",
            ),
            (
                objective == "trades" and not cfg.objective.trades_beta,
                "objective.trades-beta = 0",
                "the loss on adversarial images has no weight: trades is natural",
            ),
            (
                strategy == "fedprox" and not cfg.strategy.proximal_mu,
                "strategy.proximal-mu = 0",
                "the proximal term has no weight: fedprox is fedavg",
            ),
            (
                strategy == "trimmed-mean" and not cfg.strategy.trim_fraction,
                "strategy.trim-fraction = 0",
                "no values are cut: trimmed-mean is the plain mean",
            ),
        )
        if holds
    ]
