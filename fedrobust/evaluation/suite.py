"""The attacks of an evaluation, as they are written: "fgsm,pgd-20"."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fedrobust.attacks import make_attack
from fedrobust.config import RunConfig, split_list
from fedrobust.errors import ConfigError


@dataclass(frozen=True)
class EvaluationAttack:
    """An attack with its name in the metrics: `robust_accuracy.<name>`."""

    name: str
    run: Callable[..., Any]


def parse_attack(name: str) -> dict[str, Any]:
    """The PGD settings behind an evaluation attack's name.

    "fgsm" is one step of size epsilon from the image itself, in the l2 norm the fast gradient method; "pgd-K" is K
    steps of `evaluation.step-size` from a uniform start in the ball, as CalFAT's and most federated papers' PGD-20.

    Raises:
        ConfigError: any other name.
    """
    if name == "fgsm":
        return {"steps": 1, "random_start": "zero"}
    if match := re.fullmatch(r"pgd-([1-9]\d{0,3})", name):
        return {"steps": int(match[1]), "random_start": "uniform"}
    raise ConfigError(f"evaluation.attacks: unknown attack {name!r}; known: fgsm, pgd-K (K steps, such as pgd-20)")


def make_suite(cfg: RunConfig) -> tuple[EvaluationAttack, ...]:
    """The suite of a run: every attack of `evaluation.attacks` at the run's epsilon and norm."""
    suite = []
    for name in split_list(cfg.evaluation.attacks):
        step_size = cfg.attack.epsilon if name == "fgsm" else cfg.evaluation.step_size
        settings = {**parse_attack(name), "epsilon": cfg.attack.epsilon, "norm": cfg.attack.norm}
        suite.append(EvaluationAttack(name, make_attack("pgd", step_size=step_size, **settings)))
    return tuple(suite)
