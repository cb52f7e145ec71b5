"""DeepFool: a step over the nearest boundary of the linearised model, repeated until the label changes.

FAB uses the same linearisation (`nearest_boundary`, `move_to_hyperplane`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedrobust.attacks.ball import DUAL_ORDERS, Norm, ball_of, image_norm, per_image
from fedrobust.attacks.contract import WorkingSet, no_side_effects, on_pixels

EXTRA = 1e-4  # added to each distance by the authors' code, so that a step of length 0 still crosses


@torch.enable_grad()
def nearest_boundary(logits: Tensor, x: Tensor, y: Tensor, rivals: Tensor, norm: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return f_k = z_k − z_y and w_k = ∂f_k/∂x for the rival k with the least |f_k| / ‖w_k‖, in the dual norm.

    The quotient is the distance to the boundary between y and k if the model were linear. One backward pass per rival.

    Args:
        logits: z(x) in float32 with its graph, [B, K].
        x: the leaf of that graph, [B, ...].
        y: labels, [B].
        rivals: classes k, [B, C].

    Returns:
        f [B], w [B, ...] and the distance [B], detached.
    """
    gaps = logits.gather(1, rivals) - logits.gather(1, y.unsqueeze(1))
    nearest: tuple[Tensor, Tensor, Tensor] | None = None
    for c in range(gaps.shape[1]):
        (normal,) = torch.autograd.grad(gaps[:, c].sum(), x, retain_graph=c + 1 < gaps.shape[1])
        gap = gaps[:, c].detach()
        distance = gap.abs() / image_norm(normal, DUAL_ORDERS[norm]).clamp(min=1e-12)
        if nearest is None:
            nearest = gap, normal, distance
        else:
            nearer = distance < nearest[2]
            masks = nearer, per_image(nearer, x), nearer
            new = gap, normal, distance
            nearest = tuple(torch.where(m, a, b) for m, a, b in zip(masks, new, nearest, strict=True))  # type: ignore[assignment]
    assert nearest is not None
    return nearest


def move_to_hyperplane(x: Tensor, normal: Tensor, gap: Tensor, norm: str) -> Tensor:
    """Return the shortest d with f + ⟨w, d⟩ = 0 and x + d in [0, 1]; if there is none, the corner nearest to the plane.

    d_i = ± min(λ s_i, r_i) towards the plane, with r_i the room up to 0 or 1, s_i = 1 (l∞) or |w_i| (l2).
    ⟨w, d⟩ rises with λ and is concave and piecewise linear: Newton's method from λ = 0 never passes the solution, and
    reaches it exactly once no further pixel saturates, after about five rounds. The public code sorts instead. Limit
    case: w = 0 moves nothing.

    Args:
        x: images, [B, ...], with pixels in [0, 1].
        normal: w, [B, ...].
        gap: f, [B].
        norm: "linf" or "l2".
    """
    dims = tuple(range(1, x.ndim))
    direction = normal.sign().mul_(per_image(-gap.sign(), x))
    weight = normal.abs()
    speed = weight if norm == "l2" else torch.ones((), dtype=x.dtype, device=x.device)
    room, rate = torch.where(direction > 0, 1 - x, x), weight * speed
    full = weight * room
    reach = torch.zeros_like(gap)  # λ
    while True:
        free = room > per_image(reach, x) * speed
        slope = (rate * free).sum(dims)
        left = gap.abs() - full.masked_fill(free, 0).sum(dims)
        further = torch.where(slope > 0, left / slope, torch.finfo(x.dtype).max)
        if not (further > reach).any():  # the same pixels are free: the same sums, to the bit
            return direction.mul_(torch.minimum(per_image(reach, x) * speed, room))
        reach = torch.maximum(further, reach)


@dataclass
class _Step:
    """The images at work, a row each: the point, label and rivals, and the way to the nearest boundary."""

    x_adv: Tensor
    y: Tensor
    rivals: Tensor
    normal: Tensor
    distance: Tensor


@on_pixels
def deepfool(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    epsilon: float,
    norm: Norm = "l2",
    steps: int = 50,
    overshoot: float = 0.02,
    num_candidates: int = 10,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Step over the nearest boundary of the linearised model until the prediction is not y.

    x_{t+1} = x_t + (1 + overshoot) (|f| / ‖w‖ + 1e-4) u, clipped to [0, 1].

    Moosavi-Dezfooli et al. 2016, algorithm 2 and section 3.3: f = z_k − z_y and w = ∇f of the nearest rival k
    (`nearest_boundary`), u = w / ‖w‖₂ (l2), or sign w with |f| divided by ‖w‖₁ (l∞). Images leave the batch once
    misclassified; at most C forward-backward halves per step, C = min(num_candidates, K) − 1. A minimal-norm attack:
    points that it finds outside the ball are projected onto it. Limit cases: epsilon = 0 returns x; so do images that
    are misclassified at x. Deviations: the label takes the place of the prediction at x; [0, 1] is kept; logits that
    are not finite end the search.

    Args:
        model: maps pixels in [0, 1] to logits; it runs in its current mode.
        x: images, [B, ...], with pixels in [0, 1].
        y: labels, [B], int64.
        epsilon: radius in pixel units, at least 0.
        steps: number of steps, at least 1.
        overshoot: relative step beyond the boundary, at least 0.
        num_candidates: number of classes considered, at least 2: the label and those with the highest logits at x.
        generator: not used; nothing is random.

    Returns:
        A new tensor like x, detached, in the ball and in [0, 1]. The model and all random state are as before.

    Raises:
        ValueError: a setting out of its range.
    """
    if steps < 1 or overshoot < 0 or num_candidates < 2:
        raise ValueError(
            "deepfool needs steps ≥ 1, overshoot ≥ 0 and num_candidates ≥ 2, "
            f"not {steps}, {overshoot} and {num_candidates}"
        )
    ball = ball_of(norm, x, epsilon)
    if epsilon == 0:
        return x.detach().clone()
    x_adv, work, rivals = ball.x, WorkingSet(x), None
    with no_side_effects(model, x.device):
        for _ in range(steps):
            with torch.enable_grad():
                x_adv = x_adv.detach().requires_grad_()
                logits = model(x_adv).float()
            if rivals is None:
                others = logits.detach().scatter(1, y.unsqueeze(1), float("-inf"))
                rivals = others.topk(min(num_candidates, logits.shape[1]) - 1, dim=1).indices
            # no way leads on from logits that are not finite: such an image stays here, as with every attack
            fooled = (logits.argmax(1) != y) | ~logits.isfinite().all(1)
            if fooled.all():
                break
            _, normal, distance = nearest_boundary(logits, x_adv, y, rivals, norm)
            x_adv = x_adv.detach()
            at = work.drop(fooled, x_adv, _Step(x_adv, y, rivals, normal, distance))
            y, rivals = at.y, at.rivals
            length = image_norm(at.normal, 2).clamp_(min=1e-12)
            direction = at.normal / per_image(length, x) if norm == "l2" else at.normal.sign()
            x_adv = (at.x_adv + direction * per_image((1 + overshoot) * (at.distance + EXTRA), x)).clamp_(0, 1)
        return ball.enclose(work.finish(x_adv.detach()))
