"""The momentum iterative method: PGD along a running sum of gradients."""

import torch
from torch import Tensor, nn

from fedrobust.attacks.ball import Norm, ball_of, image_norm, per_image
from fedrobust.attacks.contract import Loss, input_gradient, no_side_effects, on_pixels
from fedrobust.losses import cross_entropy


@on_pixels
def mim(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    epsilon: float,
    step_size: float | None = None,
    steps: int = 10,
    momentum: float = 1.0,
    norm: Norm = "linf",
    loss: Loss = cross_entropy,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Maximise the loss by steps along a running sum of gradients.

    g_{t+1} = μ g_t + ∇loss(x_t) / ‖∇loss(x_t)‖₁, x_{t+1} = Π(x_t + step_size · d_t), d_t = sign g or g / ‖g‖₂.

    Dong et al. 2018, algorithm 1 (MI-FGSM) and its l2 form, equation 9; from x. Exactly `steps` forward and
    backward passes. Deviation: Π onto the ball and [0, 1] after each step; the paper chooses steps that stay within the
    ball. Limit cases: μ = 0 is PGD from "zero"; epsilon = 0 returns x.

    Args:
        model: maps pixels in [0, 1] to logits; it runs in its current mode.
        x: images, [B, ...], with pixels in [0, 1].
        y: target of `loss`, [B] or [B, K].
        epsilon: radius in pixel units, at least 0.
        step_size: step size in pixel units, above 0; by default epsilon / steps, as in the paper.
        steps: number of steps, at least 1.
        momentum: μ, the weight of the earlier gradients, at least 0.
        loss: the loss to maximise, (logits in float32, y) -> [B].
        generator: not used; nothing is random.

    Returns:
        A new tensor like x, detached, in the ball and in [0, 1]. The model and all random state are as before.

    Raises:
        ValueError: a setting out of its range.
    """
    if (step_size is not None and step_size <= 0) or steps < 1 or momentum < 0:
        raise ValueError(
            f"mim needs step_size > 0, steps ≥ 1 and momentum ≥ 0, not {step_size}, {steps} and {momentum}"
        )
    ball = ball_of(norm, x, epsilon)
    x_adv = x.detach().clone()
    if epsilon == 0:
        return x_adv
    length, total = float(epsilon / steps if step_size is None else step_size), torch.zeros_like(x_adv)
    with no_side_effects(model, x.device):
        for _ in range(steps):
            gradient = input_gradient(model, x_adv, y, loss)
            gradient /= per_image(image_norm(gradient, 1).clamp_(min=torch.finfo(x.dtype).tiny), x)
            total.mul_(momentum).add_(gradient)
            ball.step_(x_adv, total, length)
    return x_adv
