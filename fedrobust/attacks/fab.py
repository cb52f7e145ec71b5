"""FAB, the fast adaptive boundary attack: the smallest change that crosses a boundary, found close to x."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedrobust.attacks.apgd import ranked_class
from fedrobust.attacks.ball import ORDERS, Norm, ball_of, image_norm, per_image
from fedrobust.attacks.contract import WorkingSet, no_side_effects, on_pixels
from fedrobust.attacks.deepfool import move_to_hyperplane, nearest_boundary


@dataclass
class _Search:
    """The images at work, a row each: the nearest misclassified point so far and its distance, point and rivals."""

    best: Tensor
    least: Tensor
    x_adv: Tensor
    clean: Tensor
    y: Tensor
    rivals: Tensor


@on_pixels
def fab(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    epsilon: float,
    norm: Norm = "linf",
    steps: int = 100,
    target_rank: int = 0,
    alpha_max: float = 0.1,
    eta: float = 1.05,
    beta: float = 0.9,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Step to the nearest boundary of the linearised model, with a bias towards x.

    x_{t+1} = (1 − α) (x_t + η d) + α (x + η d₀), clipped to [0, 1]; if that is misclassified, β of the way back.

    Croce and Hein 2020 (Minimally distorted adversarial examples), algorithm 1, without its final search: d and d₀
    lead x_t and x to the boundary with the nearest rival, linearised at x_t, inside [0, 1] (`nearest_boundary`,
    `move_to_hyperplane`); α = ‖d‖ / (‖d‖ + ‖d₀‖), at most alpha_max. The nearest misclassified point counts.

    With `target_rank` = r > 0 the rival is the class that ranks (r + 1)-th at x: one backward pass per step
    instead of K − 1. FAB-T of AutoAttack is r = 1 … 9.

    An image leaves the batch as soon as it is misclassified within epsilon. One that is misclassified only outside is
    returned projected onto the ball, one that never is, unchanged. Each step takes one forward and backward pass, and
    one forward pass to check. Sharing the latter with the next step's gradient does not pay: at least two thirds of the
    points that are checked are misclassified, and β moves those before the next gradient. The start is x: nothing is
    random. Limit cases: epsilon = 0 returns x; so do images that are misclassified at x.

    Args:
        model: maps pixels in [0, 1] to logits; it runs in its current mode.
        x: images, [B, ...], with pixels in [0, 1].
        y: labels, [B], int64.
        epsilon: radius in pixel units, at least 0.
        steps: number of steps, at least 1.
        target_rank: rank of the target class, below the number of classes; 0 considers all rivals.
        alpha_max: largest bias towards x, in [0, 1].
        eta: extrapolation beyond the boundary, at least 1.
        beta: factor on the distance to x after a misclassification, in [0, 1].
        generator: not used.

    Returns:
        A new tensor like x, detached, in the ball and in [0, 1]. The model and all random state are as before.

    Raises:
        ValueError: a setting out of its range.
    """
    if steps < 1 or target_rank < 0:
        raise ValueError(f"fab needs steps ≥ 1 and target_rank ≥ 0, not {steps} and {target_rank}")
    if not (0 <= alpha_max <= 1 and 0 <= beta <= 1 and eta >= 1):
        raise ValueError(f"fab needs alpha_max and beta in [0, 1] and eta ≥ 1, not {alpha_max}, {beta} and {eta}")
    ball = ball_of(norm, x, epsilon)
    if epsilon == 0:
        return x.detach().clone()
    work, at = WorkingSet(x), None
    with no_side_effects(model, x.device), torch.no_grad():
        for _ in range(steps):
            with torch.enable_grad():
                leaf = (at.x_adv if at else ball.x).detach().requires_grad_()
                logits = model(leaf).float()
                if at is None:
                    least = torch.full((len(x),), torch.inf, dtype=x.dtype, device=x.device)
                    least = torch.where(logits.argmax(1) == y, least, 0)
                    at = _Search(ball.x, least, ball.x, ball.x, y, _rivals(logits.detach(), y, target_rank))
                gap, normal, _ = nearest_boundary(logits, leaf, at.y, at.rivals, norm)
            gap_at_clean = gap - (normal * (at.x_adv - at.clean)).sum(tuple(range(1, x.ndim)))
            here = move_to_hyperplane(at.x_adv, normal, gap, norm)
            there = move_to_hyperplane(at.clean, normal, gap_at_clean, norm)
            a, b = (image_norm(d, ORDERS[norm]).clamp_(min=1e-8) for d in (here, there))
            bias = per_image((a / (a + b)).clamp_(max=alpha_max), x)
            x_adv = torch.lerp(at.x_adv.add(here, alpha=eta), at.clean.add(there, alpha=eta), bias).clamp_(0, 1)
            wrong = model(x_adv).argmax(1) != at.y
            distance = image_norm(x_adv - at.clean, ORDERS[norm])
            nearer = wrong & (distance < at.least)
            at.best = torch.where(per_image(nearer, x), x_adv, at.best)
            at.least = torch.where(nearer, distance, at.least)
            at.x_adv = torch.where(per_image(wrong, x), torch.lerp(at.clean, x_adv, beta), x_adv)
            at = work.drop(at.least <= epsilon, at.best, at)
            if not len(work):
                break
        assert at
        return ball.enclose(work.finish(at.best))


def _rivals(logits: Tensor, y: Tensor, target_rank: int) -> Tensor:
    """Return the classes to move to: the one of that rank, [B, 1], or with 0 all but the label, [B, K − 1]."""
    if target_rank:
        return ranked_class(logits, target_rank).unsqueeze(1)
    return (y.unsqueeze(1) + torch.arange(1, logits.shape[1], device=y.device)) % logits.shape[1]
