"""Plain convolutional networks: a small one for two CPU cores, and CalFAT's."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

from torch import nn

from fedrobust.models.layers import normalised


def build_small_cnn(
    num_classes: int,
    image_shape: tuple[int, int, int],
    mean: Sequence[float],
    std: Sequence[float],
    activation: Callable[[], nn.Module],
) -> nn.Module:
    """Build two padded 3×3 convolutions of 32 and 64 channels, each with 2×2 max pooling, and one linear layer.

    21,386 parameters for 1×8×8 and 10 classes, 60,362 for 3×32×32; no batch norm. A fifth of `calfat-cnn`'s work: for
    handwritten digits, and for CIFAR-10 on a CPU.

    Raises:
        ValueError: an image of another size.
    """
    channels, height, width = image_shape
    if min(height, width) < 4:
        raise ValueError(f"small-cnn needs images of 4×4 or more, not {height}×{width}")
    network = nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(channels, 32, 3, padding=1),
            pool1=nn.MaxPool2d(2),  # before the activation, as in calfat-cnn
            activation1=activation(),
            conv2=nn.Conv2d(32, 64, 3, padding=1),
            pool2=nn.MaxPool2d(2),
            activation2=activation(),
            flatten=nn.Flatten(),
            linear=nn.Linear(64 * (height // 4) * (width // 4), num_classes),
        )
    )
    return normalised(network, mean, std)


def build_calfat_cnn(
    num_classes: int,
    image_shape: tuple[int, int, int],
    mean: Sequence[float],
    std: Sequence[float],
    activation: Callable[[], nn.Module],
) -> nn.Module:
    """Build three unpadded 3×3 convolutions of 128 channels, 2×2 max pooling after the first two, and one linear layer.

    Chen et al. 2022, official code: no batch norm and raw pixels, so `mean` and `std` are not used.
    319,242 parameters for 3×32×32 and 10 classes; any image of at least 18×18 fits. Deviation: pooling comes before the
    activation, in the code after it. For a non-decreasing activation this is the same function at a quarter of the
    work, and for ReLU the gradients are the same to the last bit.

    Raises:
        ValueError: a smaller image.
    """
    channels, height, width = image_shape
    if min(height, width) < 18:
        raise ValueError(f"calfat-cnn needs images of at least 18×18, not {height}×{width}")
    rows, columns = (((side - 2) // 2 - 2) // 2 - 2 for side in (height, width))
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(channels, 128, 3),
            pool1=nn.MaxPool2d(2),
            activation1=activation(),
            conv2=nn.Conv2d(128, 128, 3),
            pool2=nn.MaxPool2d(2),
            activation2=activation(),
            conv3=nn.Conv2d(128, 128, 3),
            activation3=activation(),
            flatten=nn.Flatten(),
            linear=nn.Linear(128 * rows * columns, num_classes),
        )
    )
