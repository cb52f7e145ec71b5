"""Attacks: pure functions `(model, x, y, *, epsilon, ..., generator) -> x_adv`.

Those of ATTACKS raise a `loss` that they are given, so that objectives train with them; those of EVALUATION_ATTACKS
have an aim of their own, and measure.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from fedrobust.attacks.apgd import apgd
from fedrobust.attacks.carlini_wagner import carlini_wagner
from fedrobust.attacks.contract import Attack, Loss, Mode, attack_mode
from fedrobust.attacks.deepfool import deepfool
from fedrobust.attacks.fab import fab
from fedrobust.attacks.fgsm import fgsm
from fedrobust.attacks.mim import mim
from fedrobust.attacks.noise import gaussian_noise, uniform_noise
from fedrobust.attacks.pgd import pgd
from fedrobust.attacks.square import square
from fedrobust.config.registry import bind_settings

__all__ = [
    "ATTACKS",
    "EVALUATION_ATTACKS",
    "Attack",
    "Loss",
    "Mode",
    "apgd",
    "attack_mode",
    "carlini_wagner",
    "deepfool",
    "fab",
    "fgsm",
    "gaussian_noise",
    "make_attack",
    "make_evaluation_attack",
    "mim",
    "pgd",
    "square",
    "uniform_noise",
]

ATTACKS: dict[str, Callable[..., Tensor]] = {
    "fgsm": fgsm,
    "pgd": pgd,
    "mim": mim,
}

EVALUATION_ATTACKS: dict[str, Callable[..., Tensor]] = {
    "apgd": apgd,
    "fab": fab,
    "square": square,
    "carlini-wagner": carlini_wagner,
    "deepfool": deepfool,
    "gaussian-noise": gaussian_noise,
    "uniform-noise": uniform_noise,
}


def make_attack(name: str, **settings: Any) -> Attack:
    """The attack of ATTACKS of this name with its settings bound; what only other attacks take is left out.

    Raises:
        ConfigError: unknown name.
        ValueError: a setting that no attack takes, or one missing that this attack needs.
    """
    return bind_settings("attack", ATTACKS, name, settings)


def make_evaluation_attack(name: str, **settings: Any) -> Callable[..., Tensor]:
    """As `make_attack`, of both registries: `(model, x, y, *, generator) -> x_adv`."""
    return bind_settings("attack", ATTACKS | EVALUATION_ATTACKS, name, settings)
