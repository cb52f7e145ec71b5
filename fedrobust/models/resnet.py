"""ResNet-18 for small images."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from fedrobust.models.normalisation import normalised


class BasicBlock(nn.Module):
    """f(shortcut(x) + bn(conv(f(bn(conv(x)))))), f the activation, 3×3 convolutions (He et al. 2016, figure 5 left)."""

    def __init__(self, inputs: int, outputs: int, stride: int, activation: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.activation1 = activation()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.activation2 = activation()
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        residual = self.bn2(self.conv2(self.activation1(self.bn1(self.conv1(x)))))
        return self.activation2(residual + (x if self.downsample is None else self.downsample(x)))


class ResNet18(nn.Module):
    """[B, C, H, W], normalised → logits [B, K]. Layers are named, ordered and initialised as in torchvision."""

    def __init__(self, num_classes: int, channels: int, activation: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.activation = activation()
        self.layer1 = nn.Sequential(BasicBlock(64, 64, 1, activation), BasicBlock(64, 64, 1, activation))
        self.layer2 = nn.Sequential(BasicBlock(64, 128, 2, activation), BasicBlock(128, 128, 1, activation))
        self.layer3 = nn.Sequential(BasicBlock(128, 256, 2, activation), BasicBlock(256, 256, 1, activation))
        self.layer4 = nn.Sequential(BasicBlock(256, 512, 2, activation), BasicBlock(512, 512, 1, activation))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(512, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(x).flatten(1))


def build_resnet18(
    num_classes: int,
    image_shape: tuple[int, int, int],
    mean: Sequence[float],
    std: Sequence[float],
    activation: Callable[[], nn.Module],
) -> nn.Module:
    """ResNet-18 (He et al. 2016) with a 3×3 stem of stride 1 and no max pooling, as usual for CIFAR.

    11,173,962 parameters for 3×32×32 and 10 classes; any image of at least 8×8 fits (three stages halve it).
    Not torchvision's, whose import takes 90 MB and two seconds in every worker; the same network apart from the stem.

    Raises:
        ValueError: a smaller image.
    """
    channels, height, width = image_shape
    if min(height, width) < 8:
        raise ValueError(f"resnet18 needs images of at least 8×8, not {height}×{width}")
    return normalised(ResNet18(num_classes, channels, activation), mean, std)
