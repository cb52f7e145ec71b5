"""Training on exact worst cases: the loss of the convex programme."""

import torch
from torch import Tensor, nn

from fedrobust.losses import margin
from fedrobust.models.polynomial import worst_images
from fedrobust.objectives.step import ObjectiveOutput


def convex(
    model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator | None = None, *, epsilon: float
) -> ObjectiveOutput:
    """Compute the mean hinge (1 − w_i)₊ of the exact worst margin w_i within ‖δ‖₂ ≤ ε; nothing is random.

    w_i = min over δ and over rivals k of f_y(x_i + δ) − f_k(x_i + δ), one eigendecomposition per pair of classes for
    the whole batch; its gradient is the gradient at the worst point (Danskin). With weight decay β it is the programme
    of docs/convex.md. Limit case: ε = 0 is the hinge on x. For model polynomial and the l2 ball only.

    Args:
        epsilon: radius ε ≥ 0, in pixel units.

    Raises:
        ConfigError: another model.
        FloatingPointError: its weights are not finite.
    """
    logits = model(worst_images(model, x, y, radius=epsilon))
    with torch.no_grad():
        natural = model(x)
    return ObjectiveOutput((1 + margin(logits, y)).clamp(min=0).mean(), natural.float(), logits.detach().float())
