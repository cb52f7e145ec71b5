"""What a model must be to be evaluated at all: pixels in [0, 1] to finite logits, in eval mode."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedrobust.data import Dataset
from fedrobust.data.device import DeviceImages
from fedrobust.errors import ConfigError
from fedrobust.evaluation.placing import placed

NUM_IMAGES, AT_ONCE = 256, 64
CONTRACT = "pixels in [0, 1]"
CLEARLY_BETTER = 0.1  # in accuracy


def admitted(
    model: nn.Module, dataset: Dataset, data: DeviceImages, index: Tensor, *, gradients: bool = True
) -> nn.Module:
    """`model`, `placed` on the device of `data`, unless its robust accuracy would mean nothing.

    The contract is [0, 1] pixels in, logits out, normalisation inside the model: else epsilon would be of another
    size. No weight says what a model expects, so its answers are asked: a model that is clearly more accurate on
    normalised pixels, or on pixels in 0..255, than on those in [0, 1] is not under the contract.

    Args:
        gradients: as of `placed`.

    Raises:
        ConfigError: a module is in train mode, what `placed` refuses, logits that are not finite, or pixels in [0, 1]
            are not what the model expects; with what to do.
    """
    for name, module in model.named_modules():
        if module.training:
            raise ConfigError(
                f"the model is in train mode ({name or 'as a whole'}): call .eval() before handing it over"
            )
    model = placed(model, data.batch(index[:2])[0], dataset.num_classes, gradients=gradients)
    _check_pixels(model, dataset, data, index[:NUM_IMAGES])
    return model


@torch.no_grad()
def _check_pixels(model: nn.Module, dataset: Dataset, data: DeviceImages, index: Tensor) -> None:
    accuracy = {CONTRACT: 0.0, "normalised pixels": 0.0, "pixels in 0..255": 0.0}
    mean = torch.tensor(dataset.mean, device=data.device).view(1, -1, 1, 1)
    std = torch.tensor(dataset.std, device=data.device).view(1, -1, 1, 1)
    for chosen in index.to(data.device).split(AT_ONCE):
        x, y = data.batch(chosen)
        for kind, pixels in zip(accuracy, (x, (x - mean) / std, 255 * x), strict=True):
            try:
                logits = model(pixels)
            except Exception:
                if kind == CONTRACT:
                    raise
                continue  # it checks its input: it does not expect these
            if kind == CONTRACT and not logits.isfinite().all():
                raise ConfigError(
                    "the model's logits are not finite on natural images: its accuracy would mean nothing"
                )
            accuracy[kind] += (logits.argmax(1) == y).sum().item() / len(index)
    contract, *others = accuracy.items()
    for kind, value in others:
        if value > contract[1] + CLEARLY_BETTER:
            raise ConfigError(
                f"the model expects {kind} (accuracy {value:.1%}, on {contract[0]} {contract[1]:.1%}): put the "
                "conversion into the model as its first layer (fedrobust.models.layers), so that epsilon is in "
                "[0, 1] units"
            )
