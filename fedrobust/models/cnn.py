"""Plain convolutional networks: a small one for two CPU cores, and CalFAT's."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from fedrobust.models.layers import normalised
from fedrobust.models.spec import Activation, Architecture, ModelSpec


def _small_cnn(spec: ModelSpec, activation: Activation) -> nn.Module:
    """Build `small-cnn`.

    21,386 parameters for 1×8×8 and 10 classes, 60,362 for 3×32×32; no batch norm. A fifth of `calfat-cnn`'s work: for
    handwritten digits, and for CIFAR-10 on a CPU.
    """
    channels, height, width = spec.image_shape
    network = nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(channels, 32, 3, padding=1),
            pool1=nn.MaxPool2d(2),  # before the activation, as in calfat-cnn
            activation1=activation(),
            conv2=nn.Conv2d(32, 64, 3, padding=1),
            pool2=nn.MaxPool2d(2),
            activation2=activation(),
            flatten=nn.Flatten(),
            linear=nn.Linear(64 * (height // 4) * (width // 4), spec.num_classes),
        )
    )
    return normalised(network, spec.mean, spec.std)


def _calfat_cnn(spec: ModelSpec, activation: Activation) -> nn.Module:
    """Build `calfat-cnn`.

    Chen et al. 2022, official code: no batch norm and raw pixels, so mean and std are not used.
    319,242 parameters for 3×32×32 and 10 classes; any image of at least 18×18 fits. Deviation: pooling comes before the
    activation, in the code after it. For a non-decreasing activation this is the same function at a quarter of the
    work, and for ReLU the gradients are the same to the last bit.
    """
    channels, height, width = spec.image_shape
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
            linear=nn.Linear(128 * rows * columns, spec.num_classes),
        )
    )


SMALL_CNN = Architecture(
    "Two padded 3×3 convolutions of 32 and 64 channels, each with 2×2 max pooling, and one linear layer.",
    _small_cnn,
    least=4,
)
CALFAT_CNN = Architecture(
    "Three unpadded 3×3 convolutions of 128 channels, 2×2 max pooling after the first two, and one linear layer.",
    _calfat_cnn,
    least=18,
)
