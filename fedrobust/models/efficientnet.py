"""EfficientNet, torchvision's, for small images."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from fedrobust.models.builder import Activation
from fedrobust.models.normalisation import normalised


def build_efficientnet_b0(
    num_classes: int,
    image_shape: tuple[int, int, int],
    mean: Sequence[float],
    std: Sequence[float],
    activation: Activation,
) -> nn.Module:
    """EfficientNet-B0 (Tan and Le 2019), torchvision's, its image halved three times instead of five; 4.0 M parameters.

    The stem and the second stage, whose image is otherwise halved, have stride 1. `activation` takes the place of every
    SiLU, in the squeeze-and-excitation blocks too; their sigmoid stays. Dropout 0.2 and stochastic depth up to 0.2 act
    in train mode. torchvision is imported here, by those who build one.

    Raises:
        ValueError: an image smaller than 8×8.
    """
    from torchvision.models import efficientnet_b0

    channels, height, width = image_shape
    if min(height, width) < 8:
        raise ValueError(f"efficientnet-b0 needs images of at least 8×8, not {height}×{width}")
    network = efficientnet_b0(weights=None, num_classes=num_classes)
    stem = network.get_submodule("features.0.0")
    assert isinstance(stem, nn.Conv2d)
    if channels != stem.in_channels:
        network.set_submodule("features.0.0", _stem(channels, stem.out_channels))
    for name in ("features.0.0", "features.2.0.block.1.0"):
        layer = network.get_submodule(name)
        assert isinstance(layer, nn.Conv2d)
        layer.stride = (1, 1)
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.SiLU):
            network.set_submodule(name, activation())
    return normalised(network, mean, std)


def _stem(channels: int, outputs: int) -> nn.Conv2d:
    stem = nn.Conv2d(channels, outputs, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(stem.weight, mode="fan_out")
    return stem
