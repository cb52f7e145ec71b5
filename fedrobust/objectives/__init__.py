"""Objectives: `(model, x, y, generator, *, attack, ...) -> Step`, the inner maximisation included.

`attack_mode` is the model's mode while it is attacked; afterwards every module is back in its own. The caller
wraps the whole objective in autocast if it wants to; losses are taken in float32 all the same.
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fedrobust.attacks.contract import Attack
from fedrobust.lookup import configure
from fedrobust.objectives.adversarial import at, mixed
from fedrobust.objectives.calfat import calfat
from fedrobust.objectives.natural import natural
from fedrobust.objectives.step import Step
from fedrobust.objectives.trades import trades

__all__ = [
    "ATTACK_BY_DIVERGENCE",
    "OBJECTIVES",
    "Objective",
    "Step",
    "at",
    "calfat",
    "make_objective",
    "mixed",
    "natural",
    "trades",
]

OBJECTIVES: dict[str, Callable[..., Step]] = {
    "natural": natural,
    "at": at,
    "mixed": mixed,
    "trades": trades,
    "calfat": calfat,
}

ATTACK_BY_DIVERGENCE = frozenset({"trades", "calfat"})
"""Objectives whose attack raises a divergence from the natural output: its gradient is zero at x itself."""


class Objective(Protocol):
    """An objective with its attack and settings bound: what `make_objective` returns and training calls."""

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator | None = ...) -> Step: ...


def make_objective(
    name: str, *, attack: Attack | None = None, class_counts: Tensor | None = None, **settings: Any
) -> Objective:
    """The objective of this name with its settings bound; what only other objectives take is left out.

    Args:
        attack: needed by all but `natural`.
        class_counts: of the client, [K], on the model's device; needed by `calfat`.

    Raises:
        ConfigError: unknown name.
        ValueError: a setting that no objective takes, or one missing that this objective needs.
    """
    return configure("objective", OBJECTIVES, name, {"attack": attack, "class_counts": class_counts, **settings})
