"""The two norms of a threat model, and lengths per image."""

import math
from typing import Literal

import torch
from torch import Tensor

Norm = Literal["linf", "l2"]

ORDERS: dict[str, float] = {"linf": math.inf, "l2": 2.0}
DUAL_ORDERS: dict[str, float] = {"linf": 1.0, "l2": 2.0}


def per_image(values: Tensor, like: Tensor) -> Tensor:
    """[B] as [B, 1, ...], to go with images [B, ...]."""
    return values.view(-1, *(1,) * (like.ndim - 1))


def image_norm(v: Tensor, order: float) -> Tensor:
    """‖v_i‖ of that order per example, over all its pixels: [B, ...] → [B]."""
    return torch.linalg.vector_norm(v, order, dim=tuple(range(1, v.ndim)))
