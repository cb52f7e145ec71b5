"""Attack, objective, optimiser settings and augmentation of a run, from its config: the same for clients and central.

Each setting is handed on here by its own name, so that a search for it leads from the flag to the line that uses it.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from fedrobust.attacks import make_attack
from fedrobust.attacks.contract import Attack
from fedrobust.config import RunConfig
from fedrobust.data import Dataset
from fedrobust.data.device import AUGMENTATIONS, Augmentation
from fedrobust.objectives import Objective, make_objective
from fedrobust.training.context import RunContext
from fedrobust.training.loop import SGDSettings
from partitions import class_counts


@lru_cache(maxsize=4)
def training_attack(cfg: RunConfig) -> Attack:
    """Return the attack of the training step, `attack.*` bound to it; the same object at each call."""
    settings = cfg.attack
    return make_attack(
        settings.name,
        epsilon=settings.epsilon,
        norm=settings.norm,
        step_size=settings.step_size,
        steps=settings.steps,
        restarts=settings.restarts,
        random_start=settings.random_start,
    )


def training_objective(
    cfg: RunConfig, name: str, attack: Attack, context: RunContext, index: np.ndarray, *, awp_gamma: float
) -> Objective:
    """Return the objective `name`, `objective.*` and the attack bound to it.

    Args:
        index: the images trained on, of the training set; `calfat` takes their class counts. All objectives of a
            context share one tensor of counts, that of the last call.
        awp_gamma: `objective.awp-gamma`, or 0 while the weights are not perturbed yet.
    """
    (counts,) = class_counts(context.dataset.train.labels, [index], context.dataset.num_classes)
    context.class_counts.copy_(torch.from_numpy(counts))
    return _objective(cfg, name, attack, context.class_counts, awp_gamma)


@lru_cache(maxsize=4)
def _objective(cfg: RunConfig, name: str, attack: Attack, class_counts: Tensor, awp_gamma: float) -> Objective:
    """Return the same objective at each call, because a captured step belongs to one; the counts change in place."""
    settings = cfg.objective
    return make_objective(
        name,
        attack=attack,
        class_counts=class_counts,
        epsilon=cfg.attack.epsilon,
        trades_beta=settings.trades_beta,
        adversarial_fraction=settings.adversarial_fraction,
        temperature=settings.temperature,
        scale=settings.scale,
        label_smoothing=settings.label_smoothing,
        noise_sigma=settings.noise_sigma,
        attack_mode=settings.attack_mode,
        awp_gamma=awp_gamma,
    )


def sgd_settings(cfg: RunConfig, *, learning_rate: float | None = None, proximal_mu: float = 0.0) -> SGDSettings:
    """Return `local.*` as settings of SGD; a strategy may give another learning rate, and FedProx' μ."""
    local = cfg.local
    return SGDSettings(
        epochs=local.epochs,
        steps=local.steps,
        batch_size=local.batch_size,
        learning_rate=local.learning_rate if learning_rate is None else learning_rate,
        momentum=local.momentum,
        weight_decay=local.weight_decay,
        proximal_mu=proximal_mu,
    )


def augmentation(cfg: RunConfig, dataset: Dataset) -> Augmentation:
    """Return the data set's augmentation, or none if `local.augment` is off."""
    return AUGMENTATIONS[dataset.augmentation if cfg.local.augment else "none"]
