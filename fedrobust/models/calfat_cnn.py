"""CalFAT's network."""

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn


def build_calfat_cnn(
    num_classes: int, image_shape: tuple[int, int, int], mean: Sequence[float], std: Sequence[float]
) -> nn.Module:
    """Three unpadded 3×3 convolutions of 128 channels, 2×2 max pooling after the first two, one linear layer.

    Chen et al. 2022, official code: no batch norm and raw pixels, so `mean` and `std` are not used.
    319,242 parameters for 3×32×32 and 10 classes; any image of at least 18×18 fits. Deviation: pooling comes before
    ReLU, in the code after it: the same logits and gradients to the last bit, for a quarter of ReLU's work.

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
            activation1=nn.ReLU(),
            conv2=nn.Conv2d(128, 128, 3),
            pool2=nn.MaxPool2d(2),
            activation2=nn.ReLU(),
            conv3=nn.Conv2d(128, 128, 3),
            activation3=nn.ReLU(),
            flatten=nn.Flatten(),
            linear=nn.Linear(128 * rows * columns, num_classes),
        )
    )
