"""What a model must be to be evaluated at all: pixels in [0, 1] to finite logits, in eval mode."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedrobust.data import Dataset
from fedrobust.data.device import DeviceImages
from fedrobust.errors import ConfigError

NUM_IMAGES = 256
CLEARLY_BETTER = 0.1  # in accuracy


@torch.no_grad()
def check_model(model: nn.Module, dataset: Dataset, data: DeviceImages, index: Tensor, *, batch_size: int) -> None:
    """Refuse a model whose robust accuracy would mean nothing.

    The contract is [0, 1] pixels in, logits out, normalisation inside the model: else epsilon would be of another
    size. No weight says what a model expects, so its answers are asked: a model that is clearly more accurate on
    normalised pixels, or on pixels in 0..255, than on those in [0, 1] is not under the contract.

    Raises:
        ConfigError: a module is in train mode, the output is not [B, K] of finite numbers, or pixels in [0, 1] are
            not what the model expects; with what to do.
    """
    for name, module in model.named_modules():
        if module.training:
            raise ConfigError(
                f"the model is in train mode ({name or 'as a whole'}): call .eval() before handing it over"
            )
    accuracy = {"pixels in [0, 1]": 0.0, "normalised pixels": 0.0, "pixels in 0..255": 0.0}
    mean = torch.tensor(dataset.mean, device=data.device).view(1, -1, 1, 1)
    std = torch.tensor(dataset.std, device=data.device).view(1, -1, 1, 1)
    index = index[:NUM_IMAGES].to(data.device)
    for chosen in index.split(batch_size):
        x, y = data.batch(chosen)
        for kind, pixels in zip(accuracy, (x, (x - mean) / std, 255 * x), strict=True):
            logits = model(pixels)
            if kind == "pixels in [0, 1]":
                _check_logits(logits, (len(x), dataset.num_classes))
            accuracy[kind] += (logits.argmax(1) == y).sum().item() / len(index)
    contract, *others = accuracy.items()
    for kind, value in others:
        if value > contract[1] + CLEARLY_BETTER:
            raise ConfigError(
                f"the model expects {kind} (accuracy {value:.1%}, on {contract[0]} {contract[1]:.1%}): put the "
                "conversion into the model as its first layer (fedrobust.models.normalisation), so that epsilon is in "
                "[0, 1] units"
            )


def _check_logits(logits: Tensor, shape: tuple[int, int]) -> None:
    if tuple(logits.shape) != shape:
        raise ConfigError(f"the model's output has shape {tuple(logits.shape)}, expected logits of shape {shape}")
    if not logits.isfinite().all():
        raise ConfigError("the model's logits are not finite on natural images: its accuracy would mean nothing")
