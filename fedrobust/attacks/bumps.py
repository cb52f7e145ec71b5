"""What the l2 Square Attack is made of: bumps, and how mass moves from one window to another."""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from fedrobust.attacks.norms import image_norm, per_image


def move_mass(
    delta: Tensor, epsilon: float, pattern: Tensor, to: tuple[slice, slice], away: tuple[slice, slice]
) -> Tensor:
    """Algorithm 3: empty the window `away`, and give its mass and what is free of epsilon to a bump in `to`."""

    def length(v: Tensor) -> Tensor:
        return torch.linalg.vector_norm(v, dim=(-2, -1), keepdim=True)  # per channel

    free = (epsilon**2 - per_image(image_norm(delta, 2) ** 2, delta)).clamp_(min=0) / delta.shape[1]
    old, outside = delta[:, :, *to], delta.clone()
    outside[:, :, *to] = 0
    mass = length(old) ** 2 + length(outside[:, :, *away]) ** 2
    new = pattern + old / (length(old) + 1e-12)
    outside[:, :, *away] = 0
    outside[:, :, *to] = new / (length(new) + 1e-12) * (free + mass).sqrt()
    return outside * per_image(epsilon / image_norm(outside, 2).clamp_(min=1e-12), delta)


@cache
def bump(side: int, transposed: bool) -> Tensor:
    """Two opposite pyramids side by side, [side, side] of length 1; heights fall with the distance to the peak."""

    def pyramid(rows: int) -> Tensor:
        i, j = (torch.arange(rows) - rows // 2).abs(), (torch.arange(side) - side // 2).abs()
        steps = 1 / torch.arange(1, side // 2 + 2, dtype=torch.float64) ** 2
        height = steps.flip(0).cumsum(0).flip(0)[torch.maximum(i[:, None], j)]
        return height / height.norm()

    half = side // 2
    bump = torch.cat((pyramid(half), -pyramid(side - half))) if half else -pyramid(side)
    bump /= bump.norm()
    return bump.T if transposed else bump


def bump_grid(x: Tensor, sign: Callable[..., Tensor], generator: torch.Generator) -> Tensor:
    """Bumps all over the image, five to a side, with a sign per image and channel."""
    b, c, h, w = x.shape
    side, delta = max(min(h, w) // 5, 1), torch.zeros_like(x)
    turned = torch.rand(h // side, w // side, generator=generator, device=x.device).gt(0.5).tolist()
    for i, row in enumerate(turned):
        for j, transposed in enumerate(row):
            top, left = h % side // 2 + i * side, w % side // 2 + j * side
            delta[:, :, top : top + side, left : left + side] = bump(side, transposed).to(x) * sign(b, c, 1, 1)
    return delta
