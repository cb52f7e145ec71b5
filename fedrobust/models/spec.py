"""Descriptions of models: `ModelSpec`, one network in full, and `Architecture`, an entry of MODELS."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from fedrobust.config import Model
from fedrobust.data.spec import Dataset, DatasetSpec
from fedrobust.models.activations import Phase

Activation = Callable[[], nn.Module]
"""Function that makes a new activation for each place in a network."""


@dataclass(frozen=True)
class ModelSpec:
    """The complete description of a network; `build_model` makes it.

    Attributes:
        name: a key of MODELS.
        num_classes: number of classes, at least 2.
        image_shape: shape of an image, (C, H, W).
        mean, std: mean and standard deviation of the training pixels, one per channel, in [0, 1] pixel units.
        activation, alpha, backward, phase: as in `models.activations.activation_maker`.
        width: factor on the number of channels, only for residual networks (as SAT scales them; narrow ones for a CPU).
        input_size: above 0, images are resized to this side first, bilinearly: attacks stay in the data's own pixels.
    """

    name: str
    num_classes: int
    image_shape: tuple[int, int, int]
    mean: Sequence[float]
    std: Sequence[float]
    activation: str = "relu"
    alpha: float | None = None
    backward: str = ""
    phase: Phase = "both"
    width: float = 1.0
    input_size: int = 0

    @classmethod
    def of(cls, settings: Model, data: Dataset | DatasetSpec) -> ModelSpec:
        """Return the description of the model that has these settings `model.*`, for the images of this data set."""
        return cls(
            name=settings.name,
            num_classes=data.num_classes,
            image_shape=data.image_shape,
            mean=data.mean,
            std=data.std,
            activation=settings.activation,
            alpha=settings.activation_alpha or None,
            backward=settings.backward_activation,
            phase=settings.backward_phase,
            width=settings.width,
            input_size=settings.input_size,
        )


@dataclass(frozen=True)
class Architecture:
    """An entry of MODELS: how a network is made of its description.

    Attributes:
        description: text for `fedrobust list`.
        make: function (spec, activation) → the network with its normalisation, from pixels to logits.
        least: smallest side of an image that it takes.
        scales: whether it takes a width, a factor on all numbers of channels except the image's and the logits'.
    """

    description: str
    make: Callable[[ModelSpec, Activation], nn.Module]
    least: int = 1
    scales: bool = False


def scaled(channels: int, width: float) -> int:
    """Return width · channels, rounded, at least 1."""
    return max(1, round(width * channels))
