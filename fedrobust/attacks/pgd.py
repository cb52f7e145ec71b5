"""Projected gradient descent on the negative loss."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from fedrobust.attacks.ball import Norm, ball_of, per_image
from fedrobust.attacks.contract import Loss, input_gradient, no_side_effects, on_pixels
from fedrobust.losses import cross_entropy

# what is left of the step size when the share t of all steps is done
DECAYS = {"none": lambda t: 1.0, "linear": lambda t: 1 - t, "cosine": lambda t: (1 + math.cos(math.pi * t)) / 2}


@on_pixels
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
    decay: Literal["none", "linear", "cosine"] = "none",
    loss: Loss = cross_entropy,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Maximise the loss by projected gradient steps.

    x_{t+1} = Π(x_t + step_size · d_t), d_t = sign g (l∞) or g / ‖g‖₂ (l2), g = ∇ loss(x_t).

    Madry et al. 2018, section 2.1. Π goes to the ball around x, then to [0, 1]. Starts: uniform in the ball and
    [0, 1]; x + N(0, 0.001²), not clipped, as in the official codes of TRADES and CalFAT; or x. With several restarts
    each example keeps the point with the highest loss. Exactly `steps` forward and backward passes; several restarts
    add one forward pass each. Limit cases: epsilon = 0 returns x; l∞, one step of epsilon from "zero" is FGSM; from
    "zero" it is BIM, the basic iterative method of Kurakin et al. 2017.

    With `decay` step t of T = `steps`, counted from 0, has length step_size · (1 − t/T) ("linear") or
    step_size · (1 + cos(π t/T)) / 2 ("cosine").

    Args:
        model: maps pixels in [0, 1] to logits; it runs in its current mode.
        x: images, [B, ...], with pixels in [0, 1].
        y: target of `loss`: labels [B], int64, or reference logits [B, K].
        epsilon: radius in pixel units, at least 0.
        step_size: step size in pixel units, above 0.
        steps: number of steps, at least 1.
        restarts: number of runs from different starts, at least 1.
        random_start: starting point: "uniform" in the ball, "gaussian" noise around x, or x itself ("zero").
        decay: schedule of the step size over the steps: "none", "linear" or "cosine".
        loss: the loss to maximise, (logits in float32, y) -> [B].
        generator: source of the noise, on the device of x.
            None takes a fresh one with seed 0 and says so in the log.

    Returns:
        A new tensor like x, detached, in the ball and in [0, 1]. The model, its buffers, gradients and modes
        and all random state but `generator` are as before. The attack never waits for the device.

    Raises:
        ValueError: a setting out of its range.
    """
    if step_size <= 0 or steps < 1 or restarts < 1:
        raise ValueError(f"pgd needs step_size > 0, steps and restarts ≥ 1, not {step_size}, {steps}, {restarts}")
    if restarts > 1 and random_start == "zero":
        raise ValueError("random_start 'zero' makes all restarts equal: use uniform or gaussian")
    if decay not in DECAYS:
        raise ValueError(f"decay {decay!r}: must be one of {', '.join(DECAYS)}")
    ball = ball_of(norm, x, epsilon)
    if epsilon == 0:
        return x.detach().clone()

    def climb() -> Tensor:
        x_adv = ball.start(random_start, generator)
        for step in range(steps):
            length = float(step_size) * DECAYS[decay](step / steps)
            ball.step_(x_adv, input_gradient(model, x_adv, y, loss), length)
        return x_adv

    @torch.no_grad()
    def strength(x_adv: Tensor) -> Tensor:
        return loss(model(x_adv).float(), y)

    with no_side_effects(model, x.device):
        best = climb()
        if restarts == 1:
            return best
        highest = strength(best)
        for _ in range(restarts - 1):
            x_adv = climb()
            value = strength(x_adv)
            stronger = per_image(value > highest, x)
            torch.where(stronger, x_adv, best, out=best)
            highest = torch.maximum(value, highest)
    return best
