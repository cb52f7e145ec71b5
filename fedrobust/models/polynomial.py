"""The two-layer polynomial network on images, for federated training, with exact worst cases in the l2 ball."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedrobust.convex.factors import RootNetwork
from fedrobust.convex.margins import functions_of, worst_case
from fedrobust.errors import ConfigError
from fedrobust.models.layers import normalised
from fedrobust.models.spec import Activation, Architecture, ModelSpec


def _polynomial(spec: ModelSpec, activation: Activation) -> nn.Module:
    """Build `polynomial`.

    `RootNetwork` on pixels minus their channel's mean, in float64. Pixels are not divided by their std: l2 balls stay
    balls. σ is fixed (`preflight` refuses any activation except polynomial). 8,450 parameters for 1×8×8 and 2 classes,
    C · 2 (d + 1)² in general, C = 1 for two classes and K for K.
    """
    channels, height, width = spec.image_shape
    network = RootNetwork(functions_of(spec.num_classes), channels * height * width)
    return normalised(network, spec.mean, [1.0] * channels)


POLYNOMIAL = Architecture(
    "Two layers, σ(z) = 0.09 z² + 0.5 z + 0.47, whose state dict (Z, Z′) averages; exact l2 certificates.", _polynomial
)


def worst_images(
    model: nn.Module, x: Tensor, y: Tensor, *, radius: float, generator: torch.Generator | None = None
) -> Tensor:
    """Return the point of the l2 ball around each image at which its margin f_y − max_{k≠y} f_k is least, exact,
    float64.

    The whole ball counts, also outside [0, 1]: this is not an attack but a certificate (`convex.margins.worst_case`).
    The image is robust exactly if that point is still classified correctly. Limit case: radius 0 is x.

    Args:
        model: a network `polynomial`.
        x: images, [B, C, H, W].
        y: labels, [B], int64.
        radius: radius in pixel units, at least 0.
        generator: not used.

    Raises:
        ConfigError: another model.
        FloatingPointError: its weights are not finite.
    """
    network = getattr(model, "network", None)
    if not isinstance(network, RootNetwork):
        raise ConfigError(f"{type(model).__name__}: has no exact worst case; only model.name polynomial has")
    with torch.no_grad():
        forms = network.lifted().forms
        if not forms.isfinite().all():
            raise FloatingPointError("training diverged: weights are not finite; lower local.learning-rate")
        inside = model.get_submodule("normalisation")(x.to(forms.dtype))
        moved = worst_case(forms, inside.flatten(1), y, radius).point.view_as(inside) - inside
        return x + moved
