"""Layers that families of networks share: normalisation of pixels, and the 1 × 1 convolution of a shortcut."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SAFE = 8  # input channels


class Normalisation(nn.Module):
    """A layer that maps x to (x − mean) / std per channel, [B, C, H, W] → [B, C, H, W].

    It is part of the model, so that attacks and epsilon refer to pixels. Mean and std are constants of the data set:
    buffers that move with the model but are in no state dict, so they neither travel nor get averaged.

    Raises:
        ValueError: mean and std differ in length, or a std is not positive.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std) or min(std) <= 0:
            raise ValueError(f"normalisation: one mean and one positive std per channel, not {mean} and {std}")
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


def normalised(network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> nn.Module:
    """Return `network` after a `Normalisation`; the names of its weights begin with "network."."""
    return nn.Sequential(OrderedDict(normalisation=Normalisation(mean, std), network=network))


def constants_of(model: nn.Module, channels: int) -> dict[str, list[float]]:
    """Return mean and std of the `Normalisation` inside `model`, which no state dict holds; 0 and 1 if it has none."""
    for module in model.modules():
        if isinstance(module, Normalisation):
            return {"mean": module.mean.flatten().tolist(), "std": module.std.flatten().tolist()}
    return {"mean": [0.0] * channels, "std": [1.0] * channels}


class _Subsampled(nn.Conv2d):
    """A strided 1 × 1 convolution as one of stride 1 on every `stride`-th pixel: the sums are equal."""

    def forward(self, input: Tensor) -> Tensor:
        rows, columns = self.stride
        return F.conv2d(input[:, :, ::rows, ::columns], self.weight, self.bias)


def pointwise(inputs: int, outputs: int, stride: int) -> nn.Conv2d:
    """Return a 1 × 1 convolution without a bias.

    On processors with AVX2 but not AVX-512, oneDNN's weight gradient of a strided one with fewer than 8 input channels,
    in channels-last order, writes beyond its memory (PyTorch 2.15: "double free or corruption"). Such narrow networks
    select the pixels first.
    """
    kind = _Subsampled if stride > 1 and inputs < SAFE else nn.Conv2d
    return kind(inputs, outputs, 1, stride, bias=False)
