"""The fast gradient sign method and its randomised variants: one gradient per attack."""

from typing import Literal

import torch
from torch import Tensor, nn

from fedrobust.attacks.ball import LinfBall, Norm
from fedrobust.attacks.contract import Loss, input_gradient, no_side_effects, on_pixels
from fedrobust.losses import cross_entropy

# random start → step over epsilon
RELATIVE_STEPS = {"zero": 1.0, "uniform": 1.25, "gaussian": 1.0, "n-fgsm": 1.0}


@on_pixels
def fgsm(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    epsilon: float,
    relative_step: float | None = None,
    random_start: Literal["zero", "uniform", "gaussian", "n-fgsm"] = "zero",
    norm: Norm = "linf",
    loss: Loss = cross_entropy,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Maximise the loss in one step along the sign of its gradient.

    x′ = Π(x₀ + α sign ∇ loss(x₀)), α = relative_step · epsilon, Π onto the l∞ ball and [0, 1].

    By `random_start`, with the default of `relative_step`:

    - "zero" (1): x₀ = x. Goodfellow et al. 2015, section 4.
    - "uniform" (1.25): x₀ uniform in the ball. Fast adversarial training, Wong et al. 2020, algorithm 3.
    - "gaussian" (1): x₀ = x + N(0, 0.001²), not clipped; for losses whose gradient is zero at x, such as a divergence.
    - "n-fgsm" (1): x₀ = x + U(−2 epsilon, 2 epsilon) clipped to [0, 1], and Π clips to [0, 1] only. N-FGSM,
      de Jorge et al. 2022, algorithm 1 and official code. It leaves the ball, up to 3 epsilon: a training
      attack, never one for evaluation.

    The step is relative to epsilon, so that PGD's `step_size` cannot be mistaken for it.

    Args:
        model: maps pixels in [0, 1] to logits; it runs in its current mode.
        x: images, [B, ...], with pixels in [0, 1].
        y: target of `loss`, [B] or [B, K].
        epsilon: radius in pixel units, at least 0; 0 returns x.
        relative_step: step size divided by epsilon, above 0; None takes the default of the random start.
        random_start: starting point, as above.
        norm: "linf"; for l2 use one step of PGD.
        loss: the loss to maximise, (logits in float32, y) -> [B].
        generator: source of the noise, on the device of x.
            None takes a fresh one with seed 0 and says so in the log.

    Returns:
        A new tensor like x, detached. The model and all random state but `generator` are as before.

    Raises:
        ValueError: a setting out of its range.
    """
    if norm != "linf":
        raise ValueError(f"fgsm is for norm linf, not {norm!r}: use pgd with steps = 1")
    if random_start not in RELATIVE_STEPS:
        raise ValueError(f"random_start {random_start!r}: must be one of {', '.join(RELATIVE_STEPS)}")
    step = RELATIVE_STEPS[random_start] if relative_step is None else relative_step
    if step <= 0:
        raise ValueError(f"relative_step = {relative_step}: must be above 0")
    if random_start == "n-fgsm":
        first, last = LinfBall(x, 2 * epsilon), LinfBall(x, (2 + step) * epsilon)
    else:
        first = last = LinfBall(x, epsilon)
    if epsilon == 0:
        return x.detach().clone()
    x_adv = first.start("uniform" if random_start == "n-fgsm" else random_start, generator)
    with no_side_effects(model, x.device):
        gradient = input_gradient(model, x_adv, y, loss)
    return last.step_(x_adv, gradient, step * epsilon)
