"""Residual networks for small images: ResNet-18, -34 and -50."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from fedrobust.models.layers import normalised, pointwise
from fedrobust.models.spec import Activation, Architecture, ModelSpec, scaled


class BasicBlock(nn.Module):
    """A residual block f(shortcut(x) + bn(conv(f(bn(conv(x)))))), f the activation, 3×3 convolutions (He et al. 2016,
    figure 5 left).
    """

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int, activation: Activation) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.activation1 = activation()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.activation2 = activation()
        self.downsample = _shortcut(inputs, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        residual = self.bn2(self.conv2(self.activation1(self.bn1(self.conv1(x)))))
        return self.activation2(residual + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """A residual block with 1×1, 3×3 and 1×1 convolutions, the last to four times the width (figure 5 right).

    The stride is the 3×3 convolution's, as in torchvision.
    """

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int, activation: Activation) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.activation1 = activation()
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.activation2 = activation()
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.activation3 = activation()
        self.downsample = _shortcut(inputs, 4 * width, stride)

    def forward(self, x: Tensor) -> Tensor:
        narrow = self.activation2(self.bn2(self.conv2(self.activation1(self.bn1(self.conv1(x))))))
        return self.activation3(self.bn3(self.conv3(narrow)) + (x if self.downsample is None else self.downsample(x)))


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module | None:
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(pointwise(inputs, outputs, stride), nn.BatchNorm2d(outputs))


class ResNet(nn.Module):
    """A residual network on normalised images [B, C, H, W] → logits [B, K]. Layers are named, ordered and initialised
    as in torchvision.

    Args:
        blocks: number of blocks in each of the four stages, of 64, 128, 256 and 512 channels; all but the first halve
            the image.
        width: factor on the number of channels in the stem and in every stage.
        imagenet_stem: use a 7×7 convolution of stride 2 and 3×3 max pooling of stride 2 instead of a 3×3 convolution.
    """

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck],
        blocks: Sequence[int],
        num_classes: int,
        channels: int,
        activation: Activation,
        *,
        width: float = 1.0,
        imagenet_stem: bool = False,
    ) -> None:
        super().__init__()
        stem = scaled(64, width)
        kernel, stride, padding = (7, 2, 3) if imagenet_stem else (3, 1, 1)
        self.conv1 = nn.Conv2d(channels, stem, kernel, stride, padding, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.activation = activation()
        self.maxpool = nn.MaxPool2d(3, 2, padding=1) if imagenet_stem else nn.Identity()
        stages, inputs = [], stem
        for number, count in enumerate(blocks):
            outputs, layers = scaled(64 << number, width), []
            for place in range(count):
                layers.append(block(inputs, outputs, 2 if number and not place else 1, activation))
                inputs = outputs * block.expansion
            stages.append(nn.Sequential(*layers))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(inputs, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.activation(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(x).flatten(1))


def _architecture(
    description: str,
    block: type[BasicBlock | Bottleneck],
    blocks: Sequence[int],
    *,
    imagenet_stem: bool = False,
) -> Architecture:
    def make(spec: ModelSpec, activation: Activation) -> nn.Module:
        network = ResNet(
            block,
            blocks,
            spec.num_classes,
            spec.image_shape[0],
            activation,
            width=spec.width,
            imagenet_stem=imagenet_stem,
        )
        return normalised(network, spec.mean, spec.std)

    return Architecture(description, make, least=32 if imagenet_stem else 8, scales=True)


# Not torchvision's, whose import takes 90 MB and two seconds in every worker; the same networks apart from the stem.
RESNET18 = _architecture(
    "ResNet-18 (He et al. 2016) with a 3×3 stem of stride 1 and no max pooling, as usual for CIFAR; 11.2 M parameters.",
    BasicBlock,
    (2, 2, 2, 2),
)
RESNET18_IMAGENET = _architecture(
    "ResNet-18 with its own 7×7 stem of stride 2 and max pooling: the starting point of Dang et al.'s architecture.",
    BasicBlock,
    (2, 2, 2, 2),
    imagenet_stem=True,
)
RESNET34 = _architecture("ResNet-34 with the stem of resnet18; 21.3 M parameters.", BasicBlock, (3, 4, 6, 3))
RESNET50 = _architecture("ResNet-50 with the stem of resnet18; 23.5 M parameters.", Bottleneck, (3, 4, 6, 3))
