"""Attacks: pure functions `(model, x, y, *, epsilon, ..., loss, generator) -> x_adv`."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from fedrobust.attacks.contract import Attack, Loss, Mode, attack_mode
from fedrobust.attacks.fgsm import fgsm
from fedrobust.attacks.pgd import pgd
from fedrobust.lookup import configure

__all__ = ["ATTACKS", "Attack", "Loss", "Mode", "attack_mode", "fgsm", "make_attack", "pgd"]

ATTACKS: dict[str, Callable[..., Tensor]] = {
    "fgsm": fgsm,
    "pgd": pgd,
}


def make_attack(name: str, **settings: Any) -> Attack:
    """The attack of this name with its settings bound; what only other attacks take is left out.

    Raises:
        ConfigError: unknown name.
        ValueError: a setting that no attack takes, or one missing that this attack needs.
    """
    return configure("attack", ATTACKS, name, settings)
