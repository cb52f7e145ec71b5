"""Random noise at the same epsilon: the control that every attack must beat."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fedrobust.attacks.ball import Ball, Norm, ball_of, per_image
from fedrobust.attacks.contract import no_side_effects, on_pixels
from fedrobust.losses import margin


@on_pixels
def uniform_noise(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    epsilon: float,
    norm: Norm = "linf",
    draws: int = 1,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Add noise that is uniform in the ball, and clip to [0, 1].

    x + δ; l∞: each pixel of δ in [−epsilon, epsilon]; l2: δ in all of the ball.

    With several draws each image keeps the one with the highest `margin`: one forward pass per draw, and none for a
    single draw. Limit case: epsilon = 0 returns x.

    Args:
        model: maps pixels in [0, 1] to logits; it runs in its current mode.
        x: images, [B, ...], with pixels in [0, 1].
        y: labels, [B], int64.
        epsilon: radius in pixel units, at least 0.
        draws: number of random draws, at least 1.
        generator: source of the noise, on the device of x.
            None takes a fresh one with seed 0 and says so in the log.

    Returns:
        A new tensor like x, detached, in the ball and in [0, 1]. The model and all random state but `generator`
        are as before.

    Raises:
        ValueError: a setting out of its range.
    """
    ball = ball_of(norm, x, epsilon)
    return _worst_draw(model, y, ball, draws, lambda: ball.start("uniform", generator))


@on_pixels
def gaussian_noise(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    epsilon: float,
    norm: Norm = "linf",
    draws: int = 1,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Add Gaussian noise, and project onto the ball and [0, 1].

    Π(x + δ), δ ~ N(0, σ²) per pixel, σ = epsilon (l∞) or epsilon / √d for d pixels (l2).

    Π goes to the ball, then to [0, 1]. So in l∞ 31.7 % of the pixels lie at ± epsilon; in l2 ‖δ‖₂ is about
    epsilon, and about half of the images lie on the surface. All else as for `uniform_noise`.
    """
    ball = ball_of(norm, x, epsilon)
    sigma = epsilon if norm == "linf" else epsilon / max(x[:1].numel(), 1) ** 0.5
    return _worst_draw(model, y, ball, draws, lambda: ball.project_(ball.start("gaussian", generator, sigma)))


@torch.no_grad()
def _worst_draw(model: nn.Module, y: Tensor, ball: Ball, draws: int, draw: Callable[[], Tensor]) -> Tensor:
    if draws < 1:
        raise ValueError(f"draws = {draws}: must be at least 1")
    if ball.epsilon == 0:
        return ball.x.clone()
    best = draw()
    if draws == 1:
        return best
    with no_side_effects(model, best.device):
        highest = margin(model(best).float(), y)
        for _ in range(draws - 1):
            x_adv = draw()
            value = margin(model(x_adv).float(), y)
            torch.where(per_image(value > highest, x_adv), x_adv, best, out=best)
            highest = torch.maximum(value, highest)
    return best
