"""ResNet-18 for small images."""

from collections.abc import Sequence

from torch import nn

from fedrobust.models.normalisation import normalised


def build_resnet18(
    num_classes: int, image_shape: tuple[int, int, int], mean: Sequence[float], std: Sequence[float]
) -> nn.Module:
    """ResNet-18 (He et al. 2016) with a 3×3 stem of stride 1 and no max pooling, as usual for CIFAR.

    torchvision's blocks and initialisation, the stem included. 11,173,962 parameters for 3×32×32 and
    10 classes; any image of at least 8×8 fits (three stages halve it).

    Raises:
        ValueError: a smaller image.
    """
    from torchvision.models import resnet18  # slow to import, and only this model wants it

    channels, height, width = image_shape
    if min(height, width) < 8:
        raise ValueError(f"resnet18 needs images of at least 8×8, not {height}×{width}")
    network = resnet18(weights=None, num_classes=num_classes)
    network.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    network.maxpool = nn.Identity()  # type: ignore[assignment]
    return normalised(network, mean, std)
