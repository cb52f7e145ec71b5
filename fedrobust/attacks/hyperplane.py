"""The nearest boundary of a linearised classifier, and the way to it inside [0, 1]: for DeepFool and FAB."""

import torch
from torch import Tensor

from fedrobust.attacks.norms import DUAL_ORDERS, image_norm, per_image


@torch.enable_grad()
def nearest_boundary(logits: Tensor, x: Tensor, y: Tensor, rivals: Tensor, norm: str) -> tuple[Tensor, Tensor, Tensor]:
    """f_k = z_k − z_y and w_k = ∂f_k/∂x of that rival k with the least |f_k| / ‖w_k‖, the dual norm below the line.

    That is the distance to the boundary between y and k if the model were linear. One backward pass per rival.

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
    """The shortest d with f + ⟨w, d⟩ = 0 and x + d in [0, 1]; where there is none, the corner that comes nearest.

    d_i = ± min(λ s_i, r_i) towards the plane, with r_i the room up to 0 or 1, s_i = 1 (l∞) or |w_i| (l2).
    ⟨w, d⟩ rises with λ and is concave and piecewise linear: Newton's method from λ = 0 never passes the solution,
    and has it exactly once no further pixel saturates, after some five rounds where the public code sorts.
    Limit case: w = 0 moves nothing.

    Args:
        x: [B, ...] in [0, 1].
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
