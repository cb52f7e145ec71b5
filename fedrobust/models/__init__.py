"""Models: they map pixels in [0, 1], [B, C, H, W], to logits, [B, K]; nothing is random in eval mode.

`activations` has the nonlinearities, `layers` the normalisation, `folded` the faster form for attacks; every other file
is a family of models. `objectives`, `evaluation` and the packages above may import it.
"""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import nn

from fedrobust.config.registry import lookup
from fedrobust.errors import ConfigError
from fedrobust.models.activations import ACTIVATIONS, Phase, activation_maker, suit_weights
from fedrobust.models.builder import Builder, takes_width
from fedrobust.models.cnn import build_calfat_cnn, build_small_cnn
from fedrobust.models.efficientnet import build_efficientnet_b0
from fedrobust.models.polynomial import build_polynomial
from fedrobust.models.preact import build_preact_resnet18, build_wrn_28_10, build_wrn_34_10
from fedrobust.models.resnet import build_resnet18, build_resnet18_imagenet, build_resnet34, build_resnet50

__all__ = ["ACTIVATIONS", "MODELS", "build_model"]

MODELS: dict[str, Builder] = {
    "calfat-cnn": build_calfat_cnn,
    "efficientnet-b0": build_efficientnet_b0,
    "polynomial": build_polynomial,
    "preact-resnet18": build_preact_resnet18,
    "resnet18": build_resnet18,
    "resnet18-imagenet": build_resnet18_imagenet,
    "resnet34": build_resnet34,
    "resnet50": build_resnet50,
    "small-cnn": build_small_cnn,
    "wrn-28-10": build_wrn_28_10,
    "wrn-34-10": build_wrn_34_10,
}


def build_model(
    name: str,
    *,
    num_classes: int,
    image_shape: tuple[int, int, int],
    mean: Sequence[float],
    std: Sequence[float],
    generator_seed: int,
    activation: str = "relu",
    alpha: float | None = None,
    backward: str = "",
    phase: Phase = "both",
    width: float = 1.0,
    input_size: int = 0,
) -> nn.Module:
    """Return a newly initialised model on the CPU, in train mode; the same seed gives the same weights.

    The weights are initialised as for ReLU and scaled to the gain of the activation
    (`models.activations.suit_weights`).

    The global random state does not change, on any device.

    Args:
        name: a key of MODELS.
        num_classes: number of classes, at least 2.
        image_shape: shape of an image, (C, H, W).
        mean: mean of the training pixels, one per channel, in [0, 1] pixel units.
        std: standard deviation of the training pixels, likewise.
        generator_seed: seed of the initial weights.
        activation: as in `activation_maker`, like the next three.
        alpha: see there.
        backward: see there.
        phase: see there.
        width: factor on the number of channels, only for residual networks (as SAT scales them; narrow ones for a CPU).
        input_size: above 0, images are resized to this side first, bilinearly: attacks stay in the data's own pixels.

    Raises:
        ConfigError: unknown name, a width for a network with a fixed one, or an activation that `activation_maker`
            refuses.
        ValueError: the model cannot take images of this shape, or mean and std do not fit it.
    """
    check_width(name, width)
    build, make = lookup("model", MODELS, name), activation_maker(activation, alpha, backward, phase)
    if num_classes < 2:
        raise ValueError(f"{name} needs at least 2 classes, not {num_classes}")
    if not len(mean) == len(std) == image_shape[0]:
        raise ValueError(f"{image_shape[0]} channels need as many means and stds, not {len(mean)} and {len(std)}")
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        # torch.manual_seed would seed every GPU as well, which fork_rng(devices=[]) does not undo
        torch.default_generator.manual_seed(generator_seed)
        shape = (image_shape[0], input_size, input_size) if input_size else image_shape
        options = {} if width == 1 else {"width": width}
        model = build(num_classes, shape, mean, std, make, **options)
        suit_weights(model, activation, alpha)
    if not input_size:
        return model
    resize = nn.Upsample((input_size, input_size), mode="bilinear")
    return nn.Sequential(OrderedDict(resize=resize, model=model))


def check_width(name: str, width: float) -> None:
    """Raise ConfigError for a width other than 1 for a network with a fixed width."""
    if width != 1 and not takes_width(lookup("model", MODELS, name)):
        known = ", ".join(other for other, build in MODELS.items() if takes_width(build))
        raise ConfigError(f"model.width = {width:g}: the width of {name} is fixed; models with a variable one: {known}")
