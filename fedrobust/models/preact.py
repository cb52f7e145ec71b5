"""Residual networks with activations before the convolutions: PreActResNet-18 and wide ones."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fedrobust.models.layers import normalised, pointwise
from fedrobust.models.spec import Activation, Architecture, ModelSpec, scaled


class PreActBlock(nn.Module):
    """A residual block: shortcut + conv(f(bn(conv(a)))), a = f(bn(x)), 3×3 convolutions (He et al. 2016b, figure 4 e).

    The shortcut is x, or if shapes change a 1×1 convolution of a (both families' usual code).
    """

    def __init__(self, inputs: int, outputs: int, stride: int, activation: Activation) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.activation1 = activation()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.activation2 = activation()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut = None
        if stride != 1 or inputs != outputs:
            self.shortcut = pointwise(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        active = self.activation1(self.bn1(x))
        residual = self.conv2(self.activation2(self.bn2(self.conv1(active))))
        return residual + (x if self.shortcut is None else self.shortcut(active))


class PreActResNet(nn.Module):
    """A residual network on normalised images [B, C, H, W] → logits [B, K]: a 3×3 stem, stages of which all but the
    first halve the image, then batch norm, activation and the mean over places.

    Args:
        stem: number of channels of the stem.
        widths, blocks: number of channels and of blocks of each stage.
    """

    def __init__(
        self,
        stem: int,
        widths: Sequence[int],
        blocks: int,
        num_classes: int,
        channels: int,
        activation: Activation,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, stem, 3, padding=1, bias=False)
        layers, inputs = OrderedDict[str, nn.Module](), stem
        for number, width in enumerate(widths, 1):
            for place in range(1, blocks + 1):
                stride = 2 if number > 1 and place == 1 else 1
                layers[f"stage{number}-block{place}"] = PreActBlock(inputs, width, stride, activation)
                inputs = width
        self.blocks = nn.Sequential(layers)
        self.bn = nn.BatchNorm2d(inputs)
        self.activation = activation()
        self.fc = nn.Linear(inputs, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.bn(self.blocks(self.conv1(x))))
        return self.fc(torch.mean(x, (2, 3)))


def _architecture(description: str, stem: int, widths: Sequence[int], blocks: int) -> Architecture:
    def make(spec: ModelSpec, activation: Activation) -> nn.Module:
        first, *others = (scaled(outputs, spec.width) for outputs in (stem, *widths))
        network = PreActResNet(first, others, blocks, spec.num_classes, spec.image_shape[0], activation)
        return normalised(network, spec.mean, spec.std)

    return Architecture(description, make, least=1 << (len(widths) - 1), scales=True)


PREACT_RESNET18 = _architecture(
    "PreActResNet-18 (He et al. 2016b), as in Fast-AT and in studies of robust overfitting; 11.2 M parameters.",
    64,
    (64, 128, 256, 512),
    2,
)
WRN_28_10 = _architecture(
    "WideResNet-28-10 (Zagoruyko and Komodakis 2016), without dropout; 36.5 M parameters.",
    16,
    (160, 320, 640),
    4,
)
WRN_34_10 = _architecture(
    "WideResNet-34-10, without dropout, as in TRADES; 46.2 M parameters.",
    16,
    (160, 320, 640),
    5,
)
