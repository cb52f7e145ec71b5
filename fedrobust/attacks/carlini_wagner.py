"""Carlini and Wagner's attack for l2, and its margin form under PGD, which is usual for l∞."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedrobust.attacks.ball import Norm, ball_of, image_norm, per_image
from fedrobust.attacks.contract import WorkingSet, forward_backward, no_side_effects, on_pixels
from fedrobust.attacks.pgd import pgd
from fedrobust.losses import margin

FIRST_WEIGHT = 0.1  # c of the first search step, tenfold until an image breaks
BETAS = (0.9, 0.999)  # Adam's


@dataclass
class _Search:
    """The images at work, a row each: the nearest point that broke so far, Adam's state, and the bisection of c."""

    y: Tensor
    clean: Tensor
    centre: Tensor
    """v at x."""
    v: Tensor
    mean: Tensor
    square: Tensor
    weight: Tensor
    """c."""
    low: Tensor
    high: Tensor
    found: Tensor
    """True where this value of c broke it."""
    best: Tensor
    least: Tensor
    x_adv: Tensor
    gradient: Tensor


@on_pixels
def carlini_wagner(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    epsilon: float,
    norm: Norm = "l2",
    steps: int = 100,
    search_steps: int = 9,
    learning_rate: float = 0.01,
    confidence: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Search for the smallest change with a positive margin (l2), or raise the margin by `pgd` (l∞).

    l2: min ‖x′ − x‖₂² − c min(margin(x′), κ) over v, x′ = (tanh v + 1) / 2, by Adam; c by bisection per image.

    Carlini and Wagner 2017, section VI, equation for L2, f6. Adam restarts at x in each search step; c rises tenfold
    until the attack succeeds on the image and is bisected from then on. Success means margin > κ = `confidence`. An
    image leaves the batch once the attack has succeeded within epsilon; points found outside the ball are projected
    onto it. At most search_steps · steps forward and backward passes. Deviations: c starts at 0.1; no early abort.

    linf: the form of the federated and adversarial-training papers: `steps` steps of `pgd` on `margin` from a
    uniform start, step size epsilon / 4 falling linearly to 0. The paper's own l∞ attack is a different one;
    search_steps, learning_rate and confidence have no effect here.

    Limit case: epsilon = 0 returns x.

    Args:
        model: maps pixels in [0, 1] to logits; it runs in its current mode.
        x: images, [B, ...], with pixels in [0, 1].
        y: labels, [B], int64.
        epsilon: radius in pixel units, at least 0.
        steps: number of steps of Adam per search step, or of PGD in l∞; at least 1.
        search_steps: number of values of c that are tried, at least 1.
        learning_rate: learning rate of Adam, above 0.
        confidence: κ, the margin that counts as success, in logits; at least 0.
        generator: source of the random start in l∞, on the device of x; not used in l2.
            None takes a fresh one with seed 0 and says so in the log.

    Returns:
        A new tensor like x, detached, in the ball and in [0, 1]. The model and all random state but `generator`
        are as before.

    Raises:
        ValueError: a setting out of its range.
    """
    if steps < 1 or search_steps < 1 or learning_rate <= 0 or confidence < 0:
        raise ValueError(
            "carlini-wagner needs steps and search_steps ≥ 1, learning_rate > 0 and confidence ≥ 0, "
            f"not {steps}, {search_steps}, {learning_rate} and {confidence}"
        )
    ball = ball_of(norm, x, epsilon)
    if epsilon == 0:
        return x.detach().clone()
    if norm == "linf":
        step_size = epsilon / 4
        return pgd(
            model,
            x,
            y,
            epsilon=epsilon,
            step_size=step_size,
            steps=steps,
            decay="linear",
            loss=margin,
            generator=generator,
        )

    def cut_margin(logits: Tensor, y: Tensor) -> Tensor:
        return margin(logits, y).clamp(max=confidence)

    work, centre = WorkingSet(x), torch.atanh((2 * ball.x - 1) * (1 - 1e-6))
    weight = torch.full((len(x),), FIRST_WEIGHT, dtype=x.dtype, device=x.device)
    zero, none, ever = torch.zeros_like(centre), torch.zeros_like(y, dtype=torch.bool), weight + torch.inf
    at = _Search(
        y=y,
        clean=ball.x,
        centre=centre,
        v=centre,
        mean=zero,
        square=zero,
        weight=weight,
        low=torch.zeros_like(weight),
        high=ever,
        found=none,
        best=ball.x,
        least=ever,
        x_adv=ball.x,
        gradient=zero,
    )
    with no_side_effects(model, x.device), torch.no_grad():
        for _ in range(search_steps):
            at.v, at.found = at.centre, torch.zeros_like(at.y, dtype=torch.bool)
            at.mean = at.square = torch.zeros_like(at.v)
            for step in range(1, steps + 1):
                at.x_adv = at.v.tanh().add_(1).div_(2)
                logits, _, at.gradient = forward_backward(model, at.x_adv, at.y, cut_margin)
                broken, distance = margin(logits, at.y) > confidence, image_norm(at.x_adv - at.clean, 2)
                nearer, at.found = broken & (distance < at.least), at.found | broken
                at.best = torch.where(per_image(nearer, x), at.x_adv, at.best)
                at.least = torch.where(nearer, distance, at.least)
                at = work.drop(at.least <= epsilon, at.best, at)
                if not len(work):
                    return work.result
                # through x′ to v: dx′/dv = (1 − tanh² v) / 2 = 2 x′ (1 − x′)
                slope = 2 * (at.x_adv - at.clean) - per_image(at.weight, x) * at.gradient
                slope = slope * (2 * at.x_adv * (1 - at.x_adv))
                at.mean = torch.lerp(slope, at.mean, BETAS[0])
                at.square = torch.lerp(slope * slope, at.square, BETAS[1])
                rate = learning_rate / (1 - BETAS[0] ** step)
                spread = (at.square / (1 - BETAS[1] ** step)).sqrt_().add_(1e-8)
                at.v = torch.addcdiv(at.v, at.mean, spread, value=-rate)
            at.low = torch.where(at.found, at.low, at.weight)
            at.high = torch.where(at.found, at.weight, at.high)
            at.weight = torch.where(at.high.isinf(), at.weight * 10, (at.low + at.high) / 2)
        return ball.enclose(work.finish(at.best))
