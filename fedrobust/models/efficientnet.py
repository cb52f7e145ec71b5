"""torchvision's EfficientNet for small images."""

from __future__ import annotations

from torch import nn

from fedrobust.models.layers import normalised
from fedrobust.models.spec import Activation, Architecture, ModelSpec


def _network(spec: ModelSpec, activation: Activation) -> nn.Module:
    """Build torchvision's network with other strides and another activation.

    The stem and the second stage, whose image is otherwise halved, have stride 1. `activation` takes the place of every
    SiLU, in the squeeze-and-excitation blocks too; their sigmoid stays. Dropout 0.2 and stochastic depth up to 0.2 act
    in train mode. torchvision is imported only when such a network is built.
    """
    from torchvision.models import efficientnet_b0

    network = efficientnet_b0(weights=None, num_classes=spec.num_classes)
    channels = spec.image_shape[0]
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
    return normalised(network, spec.mean, spec.std)


def _stem(channels: int, outputs: int) -> nn.Conv2d:
    stem = nn.Conv2d(channels, outputs, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(stem.weight, mode="fan_out")
    return stem


EFFICIENTNET_B0 = Architecture(
    "EfficientNet-B0 (Tan and Le 2019), torchvision's, its image halved three times instead of five; 4.0 M parameters.",
    _network,
    least=8,
)
