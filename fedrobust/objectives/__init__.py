"""Objectives: `(model, x, y, generator, *, attack, ...) -> ObjectiveOutput`, the inner maximisation included.

`attack_mode` is the model's mode while it is attacked; afterwards every module is back in its own. The caller
wraps the whole objective in autocast if it wants to; losses are taken in float32 all the same.
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fedrobust.attacks.contract import Attack
from fedrobust.config.registry import bind_settings
from fedrobust.errors import ConfigError
from fedrobust.objectives.calfat import calfat
from fedrobust.objectives.convex import convex
from fedrobust.objectives.standard import at, mixed, natural
from fedrobust.objectives.step import ObjectiveOutput
from fedrobust.objectives.trades import trades
from fedrobust.objectives.weight_perturbation import with_perturbed_weights

__all__ = [
    "ATTACK_BY_DIVERGENCE",
    "OBJECTIVES",
    "Objective",
    "ObjectiveOutput",
    "at",
    "calfat",
    "check_start",
    "convex",
    "make_objective",
    "mixed",
    "natural",
    "trades",
]

OBJECTIVES: dict[str, Callable[..., ObjectiveOutput]] = {
    "natural": natural,
    "at": at,
    "mixed": mixed,
    "trades": trades,
    "calfat": calfat,
    "convex": convex,
}

ATTACK_BY_DIVERGENCE = frozenset({"trades", "calfat"})
"""Objectives whose attack raises a divergence from the natural output: its gradient is zero at x itself."""


def check_start(name: str, random_start: str) -> None:
    """Raise ConfigError where the attack of this objective begins where it has no gradient."""
    if name in ATTACK_BY_DIVERGENCE and random_start == "zero":
        raise ConfigError(
            f"attack.random-start = 'zero': objective {name} attacks by a divergence, whose gradient is zero there; "
            "take gaussian or uniform"
        )


class Objective(Protocol):
    """An objective with its attack and settings bound: what `make_objective` returns and training calls."""

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator | None = ...
    ) -> ObjectiveOutput: ...


def make_objective(
    name: str,
    *,
    attack: Attack | None = None,
    class_counts: Tensor | None = None,
    epsilon: float | None = None,
    awp_gamma: float = 0.0,
    **settings: Any,
) -> Objective:
    """The objective of this name with its settings bound; what only other objectives take is left out.

    Args:
        attack: needed by all but `natural` and `convex`.
        class_counts: of the client, [K], on the model's device; needed by `calfat`.
        epsilon: radius of the l2 ball; needed by `convex`.
        awp_gamma: above 0 the loss is that at adversarially perturbed weights (`weight_perturbation`).

    Raises:
        ConfigError: unknown name.
        ValueError: a setting that no objective takes, or one missing that this objective needs.
    """
    bound = {"attack": attack, "class_counts": class_counts, "epsilon": epsilon, **settings}
    objective = bind_settings("objective", OBJECTIVES, name, bound)
    return with_perturbed_weights(objective, awp_gamma) if awp_gamma else objective
