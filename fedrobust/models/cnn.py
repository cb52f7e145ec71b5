"""CalFAT's network."""

from collections import OrderedDict
from collections.abc import Callable, Sequence

from torch import nn


def build_calfat_cnn(
    num_classes: int,
    image_shape: tuple[int, int, int],
    mean: Sequence[float],
    std: Sequence[float],
    activation: Callable[[], nn.Module],
) -> nn.Module:
    """Three unpadded 3×3 convolutions of 128 channels, 2×2 max pooling after the first two, one linear layer.

    Chen et al. 2022, official code: no batch norm and raw pixels, so `mean` and `std` are not used.
    319,242 parameters for 3×32×32 and 10 classes; any image of at least 18×18 fits. Deviation: pooling comes before
    the activation, in the code after it: for one that never falls the same function at a quarter of the work, for
    ReLU with the same gradients to the last bit.

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
