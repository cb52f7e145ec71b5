"""Projected gradient descent, on the negative loss."""

from typing import Literal

import torch
from torch import Tensor, nn

from fedrobust.attacks.contract import Loss, input_gradient, untouched
from fedrobust.attacks.projections import BALLS, Norm
from fedrobust.losses import cross_entropy


def pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    epsilon: float,
    step_size: float,
    steps: int,
    norm: Norm = "linf",
    restarts: int = 1,
    random_start: Literal["uniform", "gaussian", "zero"] = "uniform",
    loss: Loss = cross_entropy,
    generator: torch.Generator | None = None,
) -> Tensor:
    """x_{t+1} = Π(x_t + step_size · d_t), d_t = sign g (l∞) or g / ‖g‖₂ (l2), g = ∇ loss(x_t).

    Madry et al. 2018, section 2.1. Π goes to the ball around x, then to [0, 1]. Starts: uniform in the ball,
    x + N(0, 0.001²) (TRADES, CalFAT), or x. Of several restarts each example keeps the strongest, with the
    highest loss. Exactly `steps` forward and backward passes; several restarts add one forward pass each.
    Limit cases: epsilon = 0 returns x; l∞, one step of epsilon from "zero" is FGSM.

    Args:
        model: pixels to logits, run in the mode it is in.
        x: [B, ...] in [0, 1].
        y: whatever `loss` takes as its target: labels [B], or reference logits [B, K].
        epsilon: radius ≥ 0 in pixel units.
        step_size: above 0, in pixel units.
        steps, restarts: at least 1.
        loss: (logits in float32, y) -> [B], to be raised.
        generator: of the noise, on the device of x.

    Returns:
        A new tensor like x, detached, in the ball and in [0, 1]. The model, its buffers, gradients and modes
        and all random state but `generator` are as before. Nothing waits for the device.

    Raises:
        ValueError: a setting out of its range, or no generator where noise is wanted.
    """
    if norm not in BALLS:
        raise ValueError(f"norm {norm!r}: must be one of {', '.join(BALLS)}")
    if step_size <= 0 or steps < 1 or restarts < 1:
        raise ValueError(f"pgd needs step_size > 0, steps and restarts ≥ 1, not {step_size}, {steps}, {restarts}")
    if restarts > 1 and random_start == "zero":
        raise ValueError("random_start 'zero' makes all restarts the same: take uniform or gaussian")
    ball = BALLS[norm](x, epsilon)
    if epsilon == 0:
        return x.detach().clone()

    def climb() -> Tensor:
        x_adv = ball.start(random_start, generator)
        for _ in range(steps):
            ball.step_(x_adv, input_gradient(model, x_adv, y, loss), float(step_size))
        return x_adv

    @torch.no_grad()
    def strength(x_adv: Tensor) -> Tensor:
        return loss(model(x_adv).float(), y)

    with untouched(model, x.device):
        best = climb()
        if restarts == 1:
            return best
        highest = strength(best)
        for _ in range(restarts - 1):
            x_adv = climb()
            value = strength(x_adv)
            stronger = (value > highest).view(-1, *(1,) * (x.ndim - 1))
            torch.where(stronger, x_adv, best, out=best)
            highest = torch.maximum(value, highest)
    return best
