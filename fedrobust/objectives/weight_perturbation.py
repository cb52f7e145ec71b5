"""Adversarial weight perturbation: any objective, computed at the worst weights nearby."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fedrobust.attacks.contract import Attack, buffers_and_random_state_kept
from fedrobust.objectives.step import ObjectiveOutput


def with_perturbed_weights(objective: partial[ObjectiveOutput], gamma: float) -> partial[ObjectiveOutput]:
    """Return the objective at adversarially perturbed weights.

    L(w + v), v_l = γ ‖w_l‖ g_l / ‖g_l‖, g the gradient of L at w, for each weight w_l of two or more axes.

    AWP, Wu et al. 2020, equations 8 to 10, one step as in their code: the adversarial examples are made once, at w;
    norms are Euclidean; biases and the weights of normalisations stay. The optimiser gets the gradient at w + v. Costs
    one more forward and backward pass. Limit case: γ = 0 is the objective itself.

    Args:
        objective: an objective with its attack bound by keyword, if it has one.
        gamma: relative size γ ≥ 0; 0.005 with TRADES and 0.01 with adversarial training in the paper.
    """
    return partial(_at_worst_weights, objective=objective, gamma=gamma)


def _at_worst_weights(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    generator: torch.Generator | None = None,
    *,
    objective: partial[ObjectiveOutput],
    gamma: float,
) -> ObjectiveOutput:
    if "attack" in objective.keywords:
        objective = partial(objective, attack=_Once(objective.keywords["attack"]))
    weights = {name: p for name, p in model.named_parameters() if p.requires_grad and p.ndim > 1}
    with buffers_and_random_state_kept(model, x.device):
        loss = objective(model, x, y, generator).loss
        gradients = torch.autograd.grad(loss, list(weights.values()))
    moved = {name: w + _worst(w.detach(), g, gamma) for (name, w), g in zip(weights.items(), gradients, strict=True)}
    return objective(_WithWeights(model, moved), x, y, generator)


def _worst(weight: Tensor, gradient: Tensor, gamma: float) -> Tensor:
    """Compute γ ‖w‖ g / ‖g‖; zero if the gradient is."""
    tiny = torch.finfo(gradient.dtype).tiny
    return gradient * (gamma * weight.norm() / gradient.norm().clamp_(min=tiny))


class _Once:
    """An attack that runs once and then returns the same examples."""

    def __init__(self, attack: Attack) -> None:
        self._attack = attack
        self._examples: Tensor | None = None

    def __call__(self, *arguments: Any, **settings: Any) -> Tensor:
        if self._examples is None:
            self._examples = self._attack(*arguments, **settings)
        return self._examples


class _WithWeights(nn.Module):
    """A model with some weights replaced; modes and buffers are the model's own."""

    def __init__(self, model: nn.Module, weights: dict[str, Tensor]) -> None:
        super().__init__()
        self.training = model.training
        self.model, self._weights = model, weights

    def forward(self, x: Tensor) -> Tensor:
        return functional_call(self.model, self._weights, (x,))
