"""Attacks: pure functions `(model, x, y, *, epsilon, ..., generator) -> x_adv`.

The attacks in ATTACKS maximise a `loss` that they are given, so objectives train with them. The attacks in
EVALUATION_ATTACKS have a goal of their own and are used for evaluation only.

`contract` has their rules, `ball` the norms and projections; every other file is one attack. `data`, `engines` and the
packages above may import it.
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
    """Return the attack of this name from ATTACKS with its settings bound; settings that only other attacks take are
    left out.

    Raises:
        ConfigError: unknown name.
        ValueError: a setting that no attack takes, or a missing one that this attack needs.
    """
    return bind_settings("attack", ATTACKS, name, settings)


def make_evaluation_attack(name: str, **settings: Any) -> Callable[..., Tensor]:
    """Return an attack as `make_attack` does, from both registries: `(model, x, y, *, generator) -> x_adv`."""
    return bind_settings("attack", ATTACKS | EVALUATION_ATTACKS, name, settings)
