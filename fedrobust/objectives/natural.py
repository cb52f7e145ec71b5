"""Ordinary training."""

import torch
from torch import Tensor, nn

from fedrobust.losses import cross_entropy
from fedrobust.objectives.step import Step


def natural(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    generator: torch.Generator | None = None,
    *,
    label_smoothing: float = 0.0,
) -> Step:
    """Mean cross-entropy on x; nothing is attacked, nothing drawn."""
    logits = model(x).float()
    return Step(cross_entropy(logits, y, label_smoothing).mean(), logits.detach(), None)
