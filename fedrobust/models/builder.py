"""What an entry of MODELS is."""

from collections.abc import Callable, Sequence

from torch import nn

Activation = Callable[[], nn.Module]
"""Makes a new one for each place in a network."""

Builder = Callable[[int, tuple[int, int, int], Sequence[float], Sequence[float], Activation], nn.Module]
"""(num_classes, image_shape, mean, std, activation) → a network; ValueError for images it cannot take."""
