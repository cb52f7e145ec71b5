"""Balls around x within [0, 1]: norms per image, starting points, steps and projections of the attacks."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Literal, final

import torch
from torch import Tensor

Norm = Literal["linf", "l2"]

ORDERS: dict[str, float] = {"linf": math.inf, "l2": 2.0}
DUAL_ORDERS: dict[str, float] = {"linf": 1.0, "l2": 2.0}

GAUSSIAN_START = 0.001  # standard deviation, in pixels: TRADES' and CalFAT's


def per_image(values: Tensor, like: Tensor) -> Tensor:
    """Reshape values [B] to [B, 1, ...], so that they broadcast over images [B, ...]."""
    return values.view(-1, *(1,) * (like.ndim - 1))


def image_norm(v: Tensor, order: float) -> Tensor:
    """Return the norm ‖v_i‖ of the given order per example, over all its pixels: [B, ...] → [B]."""
    return torch.linalg.vector_norm(v, order, dim=tuple(range(1, v.ndim)))


class Ball(ABC):
    """The set {x′ in [0, 1] : ‖x′ − x‖ ≤ epsilon} per example.

    Methods whose name ends in _ change `x_adv` in place and return it.

    Args:
        x: images, [B, ...], floating point, in [0, 1]; not changed.
        epsilon: radius in pixel units, at least 0.

    Raises:
        ValueError: negative epsilon, or x is not floating point.
    """

    def __init__(self, x: Tensor, epsilon: float) -> None:
        if epsilon < 0 or not x.is_floating_point():
            raise ValueError(f"a ball needs epsilon ≥ 0 and floating-point x, not {epsilon} and {x.dtype}")
        self.x, self.epsilon = x.detach(), float(epsilon)

    def start(self, kind: str, generator: torch.Generator | None, sigma: float = GAUSSIAN_START) -> Tensor:
        """Return a new tensor: x itself ("zero"), a uniform draw from the ball, clipped to [0, 1] ("uniform"),
        or x + N(0, sigma²), neither clipped nor projected ("gaussian").

        The official codes of TRADES and CalFAT do not clip either: their first gradient may be taken outside [0, 1].
        Clipping would set half of the black and white pixels back to x. The first step projects. The noise is drawn in
        logical order, so that it does not depend on the memory format of x.

        Raises:
            ValueError: an unknown kind, or a kind that draws noise without a generator.
        """
        x_adv = self.x.clone()
        if kind == "zero":
            return x_adv
        if kind not in ("uniform", "gaussian"):
            raise ValueError(f"random_start {kind!r}: must be zero, uniform or gaussian")
        if generator is None:
            raise ValueError(f"random_start {kind!r} draws noise: pass a generator (on {self.x.device})")
        if kind == "gaussian":
            return x_adv.add_(self._gaussian(generator) * sigma)
        return self.project_(x_adv.add_(self._uniform(generator)))

    @abstractmethod
    def step_(self, x_adv: Tensor, gradient: Tensor, step_size: float | Tensor) -> Tensor:
        """Move `x_adv` by `step_size` in the steepest direction of this norm, then `project_`.

        The length is one number, or one per image, [B, 1, ...]. A gradient that is not finite moves nothing, in either
        norm.
        """

    @abstractmethod
    def project_(self, x_adv: Tensor) -> Tensor:
        """Project `x_adv` onto the ball and clip it to [0, 1]."""

    @abstractmethod
    def distance(self, x_adv: Tensor) -> Tensor:
        """Return ‖x_adv − x‖ per example, [B]."""

    def enclose(self, x_adv: Tensor) -> Tensor:
        """Return `x_adv` unchanged, bit for bit, for examples inside the ball, and projected for the others."""
        outside = per_image(self.distance(x_adv) > self.epsilon, x_adv)
        return torch.where(outside, self.project_(x_adv.clone()), x_adv)

    @abstractmethod
    def _uniform(self, generator: torch.Generator) -> Tensor:
        """Draw noise, uniform in the whole ball."""

    def _gaussian(self, generator: torch.Generator) -> Tensor:
        return torch.randn(self.x.shape, generator=generator, dtype=self.x.dtype, device=self.x.device)

    def _random(self, *shape: int, generator: torch.Generator) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=self.x.dtype, device=self.x.device)


@final
class LinfBall(Ball):
    """A ball of the l∞ norm: each pixel changes by at most epsilon. With [0, 1] it is a box, and projection is one
    exact clamp.
    """

    def __init__(self, x: Tensor, epsilon: float) -> None:
        super().__init__(x, epsilon)
        self.lower, self.upper = (self.x - epsilon).clamp_(min=0), (self.x + epsilon).clamp_(max=1)

    def step_(self, x_adv: Tensor, gradient: Tensor, step_size: float | Tensor) -> Tensor:
        sign = gradient.sign()
        return self.project_(
            x_adv.addcmul_(sign, step_size) if isinstance(step_size, Tensor) else x_adv.add_(sign, alpha=step_size)
        )

    def project_(self, x_adv: Tensor) -> Tensor:
        return x_adv.clamp_(self.lower, self.upper)

    def distance(self, x_adv: Tensor) -> Tensor:
        return image_norm(x_adv - self.x, math.inf)

    def _uniform(self, generator: torch.Generator) -> Tensor:
        return self._random(*self.x.shape, generator=generator).mul_(2).sub_(1).mul_(self.epsilon)


@final
class L2Ball(Ball):
    """A ball of the l2 norm: the Euclidean change over all pixels of an example is at most epsilon.

    Projection goes to the ball, then to [0, 1]. Both are convex and clipping moves no pixel away from x, so
    the result is in both and no distance between two points grows; it is not always the nearest such point.
    """

    def step_(self, x_adv: Tensor, gradient: Tensor, step_size: float | Tensor) -> Tensor:
        return self.project_(x_adv.add_((gradient * (step_size / self._length(gradient))).nan_to_num_(0.0)))

    def project_(self, x_adv: Tensor) -> Tensor:
        delta = x_adv.sub_(self.x)
        return delta.mul_((self.epsilon / self._length(delta)).clamp_(max=1)).add_(self.x).clamp_(0, 1)

    def distance(self, x_adv: Tensor) -> Tensor:
        return image_norm(x_adv - self.x, 2)

    def _uniform(self, generator: torch.Generator) -> Tensor:
        # a uniform direction, and a radius whose d-th power is uniform
        direction = self._gaussian(generator)
        dimension = max(self.x[:1].numel(), 1)
        radius = self._random(len(self.x), *(1,) * (self.x.ndim - 1), generator=generator) ** (1 / dimension)
        return direction.mul_(self.epsilon * radius / self._length(direction))

    def _length(self, v: Tensor) -> Tensor:
        """Return ‖v‖₂ per example, [B, 1, ...]; never zero, so that a zero vector divided by it stays zero."""
        length = torch.linalg.vector_norm(v, dim=tuple(range(1, v.ndim)), keepdim=True)
        return length.clamp_(min=torch.finfo(v.dtype).tiny)


def ball_of(norm: str, x: Tensor, epsilon: float) -> LinfBall | L2Ball:
    """Return the ball of this norm.

    Raises:
        ValueError: an unknown norm, or as for `Ball`.
    """
    if norm not in BALLS:
        raise ValueError(f"norm {norm!r}: must be one of {', '.join(BALLS)}")
    return BALLS[norm](x, epsilon)


BALLS: dict[str, type[LinfBall] | type[L2Ball]] = {"linf": LinfBall, "l2": L2Ball}
