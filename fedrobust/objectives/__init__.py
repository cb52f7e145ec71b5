"""Objectives: `(model, x, y, generator, *, attack, ...) -> ObjectiveOutput`, the inner maximisation included.

`attack_mode` is the model's mode while it is attacked; afterwards every module is back in its own mode. The caller
wraps the whole objective in autocast if it wants to; losses are computed in float32 in any case.

`training`, `convex_study`, `reports` and the packages above may import it.
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
"""Objectives whose attack maximises a divergence from the natural output, which has no gradient at x itself."""


def check_start(name: str, random_start: str) -> None:
    """Raise ConfigError if this objective's attack starts at a point where its loss has no gradient."""
    if name in ATTACK_BY_DIVERGENCE and random_start == "zero":
        raise ConfigError(
            f"attack.random-start = 'zero': objective {name} maximises a divergence, whose gradient is zero there; "
            "use gaussian or uniform"
        )


class Objective(Protocol):
    """An objective with its attack and settings bound, as `make_objective` returns it and training calls it."""

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
    """Return the objective of this name with its settings bound; settings that only other objectives take are left out.

    Args:
        name: a key of OBJECTIVES.
        attack: an attack of `make_attack`; needed by all objectives except `natural` and `convex`.
        class_counts: number of the client's training images in each class, [K], on the model's device; needed by
            `calfat`.
        epsilon: radius of the l2 ball in pixel units, at least 0; needed by `convex`.
        awp_gamma: relative size γ of adversarial weight perturbation (`weight_perturbation`), at least 0; 0 is none.
        settings: the settings of section `objective`, such as trades_beta.

    Raises:
        ConfigError: unknown name.
        ValueError: a setting that no objective takes, or a missing one that this objective needs.
    """
    bound = {"attack": attack, "class_counts": class_counts, "epsilon": epsilon, **settings}
    objective = bind_settings("objective", OBJECTIVES, name, bound)
    return with_perturbed_weights(objective, awp_gamma) if awp_gamma else objective
