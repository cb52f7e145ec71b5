"""Square Attack: random search with square patches. It uses only logits, so masked gradients cannot mislead it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from fedrobust.attacks.ball import Norm, ball_of, image_norm, per_image
from fedrobust.attacks.contract import WorkingSet, no_side_effects, on_pixels
from fedrobust.losses import margin

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # queries of 10 000 after which p is halved


def move_mass(
    delta: Tensor, epsilon: float, pattern: Tensor, to: tuple[slice, slice], away: tuple[slice, slice]
) -> Tensor:
    """Empty the window `away`, and move its mass and what is left of epsilon to a bump in `to` (algorithm 3)."""

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
    """Return two opposite pyramids side by side, [side, side], of norm 1; heights fall with the distance to a peak."""

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
    """Return bumps all over the image, five to a side, with a sign per image and channel."""
    b, c, h, w = x.shape
    side, delta = max(min(h, w) // 5, 1), torch.zeros_like(x)
    turned = torch.rand(h // side, w // side, generator=generator, device=x.device).gt(0.5).tolist()
    for i, row in enumerate(turned):
        for j, transposed in enumerate(row):
            top, left = h % side // 2 + i * side, w % side // 2 + j * side
            delta[:, :, top : top + side, left : left + side] = bump(side, transposed).to(x) * sign(b, c, 1, 1)
    return delta


@dataclass
class _Search:
    """The images at work, a row each: their best point so far, and its margin."""

    x_best: Tensor
    clean: Tensor
    y: Tensor
    highest: Tensor


@on_pixels
def square(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    epsilon: float,
    norm: Norm = "linf",
    queries: int = 5000,
    p_init: float = 0.8,
    rescale: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Search at random: each query changes one square of p h w pixels; a change that raises the `margin` is kept.

    Andriushchenko et al. 2020, algorithms 1–3. l∞: from vertical stripes of ± epsilon; a proposal sets a square
    to ± epsilon, one sign per channel. l2: from a grid of bumps; a proposal moves the mass of one window
    to a bump in another. p starts at p_init and is halved after each of HALVINGS; with `rescale` these are scaled from
    10 000 queries to `queries` (as in the paper), without it they are used as they are (as in AutoAttack). Square and
    signs (in l∞) are the same for all images of a query, as in the public code.

    An image leaves the batch once its margin is positive. A proposal that changes nothing is not evaluated: such a
    query costs no pass. Deviation: a square can lie at the last row and column, too. Limit case: epsilon = 0 returns x.

    Args:
        model: maps pixels to logits; it runs in its current mode, forward only.
        x: images, [B, C, H, W], with pixels in [0, 1].
        y: labels, [B], int64.
        epsilon: radius in pixel units, at least 0.
        queries: number of queries after the start, at least 1.
        p_init: initial share of the pixels that a square covers, above 0, at most 1.
        rescale: scale the schedule of the square's size to `queries`.
        generator: source of all random draws, on the device of x. An image's draws do not depend on the other images.
            None takes a fresh one with seed 0 and says so in the log.

    Returns:
        A new tensor like x, detached, in the ball and in [0, 1]. The model and all random state but `generator`
        are as before.

    Raises:
        ValueError: a setting out of its range, or x of another shape.
    """
    if queries < 1 or not 0 < p_init <= 1 or x.ndim != 4:
        raise ValueError(
            f"square needs queries ≥ 1, p_init in (0, 1] and x [B, C, H, W]: {queries}, {p_init}, {x.shape}"
        )
    ball = ball_of(norm, x, epsilon)
    if epsilon == 0:
        return x.detach().clone()
    (b, c, h, w), work, clean = x.shape, WorkingSet(x), ball.x
    assert generator is not None  # `on_pixels` makes one
    dice = torch.rand(queries, 5, generator=generator, device=x.device).tolist()  # at once: the host waits once

    def signs(*shape: int) -> Tensor:
        return torch.randint(0, 2, shape, generator=generator, device=x.device).mul_(2).sub_(1).to(x.dtype)

    def window(side: int, row: float, column: float) -> tuple[slice, slice]:
        top, left = int(row * (h - side + 1)), int(column * (w - side + 1))
        return slice(top, top + side), slice(left, left + side)

    if norm == "linf":
        start = signs(b, c, 1, w) * epsilon
    else:
        start = bump_grid(x, signs, generator)
        start *= per_image(epsilon / image_norm(start, 2).clamp_(min=1e-12), x)
    with no_side_effects(model, x.device), torch.no_grad():
        x_best = ball.project_(clean + start)
        at = _Search(x_best, clean, y, margin(model(x_best).float(), y))
        for query in range(queries):
            at = work.drop(at.highest > 0, at.x_best, at)
            if not len(work):
                break
            p = p_init / 2 ** bisect_left(HALVINGS, query * 10_000 // queries if rescale else query)
            side = min(round((p * h * w) ** 0.5), h, w)
            if norm == "linf":
                x_new = _square(at.x_best, at.clean, epsilon, signs(c, 1, 1), window(max(side, 1), *dice[query][:2]))
            else:
                side = min(max(side, 3) | 1, h, w)  # odd, if the image has room
                to, away = (window(side, *dice[query][i : i + 2]) for i in (0, 2))
                pattern = bump(side, dice[query][4] > 0.5).to(x) * signs(b, c, 1, 1)[work.index]
                x_new = at.clean + move_mass(at.x_best - at.clean, epsilon, pattern, to, away)
                x_new.clamp_(0, 1)
            rows = (x_new != at.x_best).flatten(1).any(1).nonzero().squeeze(1)
            if not len(rows):
                continue
            x_new = x_new if len(rows) == len(work) else x_new[rows]
            value = margin(model(x_new).float(), at.y[rows])
            won = (value > at.highest[rows]).nonzero().squeeze(1)
            at.x_best[rows[won]], at.highest[rows[won]] = x_new[won], value[won]
        return work.finish(at.x_best)


def _square(x_best: Tensor, clean: Tensor, epsilon: float, sign: Tensor, at: tuple[slice, slice]) -> Tensor:
    """Return ± 2 epsilon in the square, clipped to the ball and [0, 1]: from any point of the ball this reaches its
    surface.
    """
    x_new, inside = x_best.clone(), clean[:, :, *at]
    x_new[:, :, *at] = torch.where(sign > 0, (inside + epsilon).clamp_(max=1), (inside - epsilon).clamp_(min=0))
    return x_new
