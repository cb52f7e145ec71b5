"""The type of MODELS' entries, and the code that entries of one family share."""

from collections.abc import Callable, Sequence
from inspect import signature
from typing import Any

from torch import nn

from fedrobust.models.layers import normalised

Activation = Callable[[], nn.Module]
"""Function that makes a new activation for each place in a network."""

Builder = Callable[[int, tuple[int, int, int], Sequence[float], Sequence[float], Activation], nn.Module]
"""(num_classes, image_shape, mean, std, activation) → a network; ValueError for images it cannot take.

A builder that also takes a keyword `width` multiplies all numbers of channels by it, except the image's and logits'."""


def builder(name: str, description: str, least: int, network: Callable[[int, int, Activation], nn.Module]) -> Builder:
    """Return a builder of `network(num_classes, channels, activation)` with normalisation; it refuses images below
    `least` squared.

    description: text for `fedrobust list`.
    """

    def build(
        num_classes: int,
        image_shape: tuple[int, int, int],
        mean: Sequence[float],
        std: Sequence[float],
        activation: Activation,
    ) -> nn.Module:
        channels, height, width = image_shape
        if min(height, width) < least:
            raise ValueError(f"{name} needs images of at least {least}×{least}, not {height}×{width}")
        return normalised(network(num_classes, channels, activation), mean, std)

    build.__doc__ = description
    return build


def scalable(
    name: str, description: str, least: int, network: Callable[[int, int, Activation, float], nn.Module]
) -> Builder:
    """Return a builder as `builder` does, for `network(num_classes, channels, activation, width)`."""

    def build(*arguments: Any, width: float = 1.0) -> nn.Module:
        return builder(name, description, least, lambda k, c, f: network(k, c, f, width))(*arguments)

    build.__doc__ = description
    return build


def takes_width(build: Builder) -> bool:
    """Return whether a builder takes a width."""
    return "width" in signature(build).parameters


def scaled(channels: int, width: float) -> int:
    """Return width · channels, rounded, at least 1."""
    return max(1, round(width * channels))
