"""Carlini and Wagner's attack for l2, and its margin form under PGD, which is usual for l∞."""

import torch
from torch import Tensor, nn

from fedrobust.attacks.ball import Norm, ball_of, image_norm, per_image
from fedrobust.attacks.contract import WorkingSet, forward_backward, no_side_effects, on_pixels
from fedrobust.attacks.pgd import pgd
from fedrobust.losses import margin

FIRST_WEIGHT = 0.1  # c of the first search step, tenfold until an image breaks
BETAS = (0.9, 0.999)  # Adam's


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

    work, clean, best = WorkingSet(x), ball.x, ball.x
    centre = torch.atanh((2 * clean - 1) * (1 - 1e-6))
    weight = torch.full((len(x),), FIRST_WEIGHT, dtype=x.dtype, device=x.device)
    low, high, least = torch.zeros_like(weight), weight + torch.inf, weight + torch.inf
    with no_side_effects(model, x.device), torch.no_grad():
        for _ in range(search_steps):
            v, found = centre, torch.zeros_like(y, dtype=torch.bool)
            mean = square = torch.zeros_like(v)
            for step in range(1, steps + 1):
                x_adv = v.tanh().add_(1).div_(2)
                logits, _, gradient = forward_backward(model, x_adv, y, cut_margin)
                broken, distance = margin(logits, y) > confidence, image_norm(x_adv - clean, 2)
                nearer, found = broken & (distance < least), found | broken
                best, least = torch.where(per_image(nearer, x), x_adv, best), torch.where(nearer, distance, least)
                best, x_adv, v, gradient, mean, square, clean, centre, weight, low, high, least, found, y = work.drop(
                    least <= epsilon,
                    *(best, x_adv, v, gradient, mean, square, clean, centre, weight, low, high, least, found, y),
                )
                if not len(work):
                    return work.result
                # through x′ to v: dx′/dv = (1 − tanh² v) / 2 = 2 x′ (1 − x′)
                slope = (2 * (x_adv - clean) - per_image(weight, x) * gradient) * (2 * x_adv * (1 - x_adv))
                mean = torch.lerp(slope, mean, BETAS[0])
                square = torch.lerp(slope * slope, square, BETAS[1])
                rate = learning_rate / (1 - BETAS[0] ** step)
                v = torch.addcdiv(v, mean, (square / (1 - BETAS[1] ** step)).sqrt_().add_(1e-8), value=-rate)
            low, high = torch.where(found, low, weight), torch.where(found, weight, high)
            weight = torch.where(high.isinf(), weight * 10, (low + high) / 2)
        return ball.enclose(work.finish(best))
