"""Models: they map pixels in [0, 1], [B, C, H, W], to logits, [B, K]; nothing is random in eval mode.

`spec` describes a model, `activations` has the nonlinearities, `layers` the normalisation, `folded` the faster form for
attacks; every other file is a family of models. `objectives`, `evaluation` and the packages above may import it.
"""

from collections import OrderedDict
from dataclasses import replace

import torch
from torch import nn

from fedrobust.config.registry import lookup
from fedrobust.errors import ConfigError
from fedrobust.models.activations import ACTIVATIONS, activation_maker, suit_weights
from fedrobust.models.cnn import CALFAT_CNN, SMALL_CNN
from fedrobust.models.efficientnet import EFFICIENTNET_B0
from fedrobust.models.polynomial import POLYNOMIAL
from fedrobust.models.preact import PREACT_RESNET18, WRN_28_10, WRN_34_10
from fedrobust.models.resnet import RESNET18, RESNET18_IMAGENET, RESNET34, RESNET50
from fedrobust.models.spec import Activation, Architecture, ModelSpec

__all__ = ["ACTIVATIONS", "MODELS", "ModelSpec", "build_model", "check_model"]

MODELS: dict[str, Architecture] = {
    "calfat-cnn": CALFAT_CNN,
    "efficientnet-b0": EFFICIENTNET_B0,
    "polynomial": POLYNOMIAL,
    "preact-resnet18": PREACT_RESNET18,
    "resnet18": RESNET18,
    "resnet18-imagenet": RESNET18_IMAGENET,
    "resnet34": RESNET34,
    "resnet50": RESNET50,
    "small-cnn": SMALL_CNN,
    "wrn-28-10": WRN_28_10,
    "wrn-34-10": WRN_34_10,
}


def build_model(spec: ModelSpec, *, generator_seed: int) -> nn.Module:
    """Return a newly initialised model on the CPU, in train mode; the same seed gives the same weights.

    The weights are initialised as for ReLU and scaled to the gain of the activation
    (`models.activations.suit_weights`).

    The global random state does not change, on any device.

    Args:
        spec: the model's description; `ModelSpec.of` makes it of a run's settings and its data.
        generator_seed: seed of the initial weights.

    Raises:
        ConfigError: as `check_model`.
        ValueError: fewer than two classes, or mean and std do not fit the images.
    """
    architecture, activation = _parts(spec)
    if spec.num_classes < 2:
        raise ValueError(f"{spec.name} needs at least 2 classes, not {spec.num_classes}")
    channels, size = spec.image_shape[0], spec.input_size
    if not len(spec.mean) == len(spec.std) == channels:
        raise ValueError(f"{channels} channels need as many means and stds, not {len(spec.mean)} and {len(spec.std)}")
    inner = replace(spec, image_shape=(channels, size, size)) if size else spec
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        # torch.manual_seed would seed every GPU as well, which fork_rng(devices=[]) does not undo
        torch.default_generator.manual_seed(generator_seed)
        model = architecture.make(inner, activation)
        suit_weights(model, spec.activation, spec.alpha)
    if not size:
        return model
    resize = nn.Upsample((size, size), mode="bilinear")
    return nn.Sequential(OrderedDict(resize=resize, model=model))


def check_model(spec: ModelSpec) -> None:
    """Raise ConfigError for an unknown name, images that are too small, a width for a network with a fixed one, or an
    activation that `activation_maker` refuses.
    """
    _parts(spec)


def _parts(spec: ModelSpec) -> tuple[Architecture, Activation]:
    architecture = lookup("model", MODELS, spec.name)
    if spec.width != 1 and not architecture.scales:
        known = ", ".join(other for other, entry in MODELS.items() if entry.scales)
        raise ConfigError(
            f"model.width = {spec.width:g}: the width of {spec.name} is fixed; models with a variable one: {known}"
        )
    height, width = (spec.input_size,) * 2 if spec.input_size else spec.image_shape[1:]
    if min(height, width) < (least := architecture.least):
        raise ConfigError(
            f"model {spec.name}: needs images of at least {least}×{least}, not {height}×{width}; set model.input-size "
            f"to {least} or more, or choose another model"
        )
    return architecture, activation_maker(spec.activation, spec.alpha, spec.backward, spec.phase)
