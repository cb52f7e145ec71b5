"""Probes of a model: behaviour that makes gradient attacks unreliable, and saved examples scored again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn

from fedrobust.attacks.contract import input_gradient
from fedrobust.data.device import DeviceImages
from fedrobust.losses import cross_entropy

SAME = 1e-4  # logits of two passes over one batch may differ by rounding
SUM_TO_ONE = 1e-3

BATCHES = (64, 512, 1)
CLEAR_MARGIN = 1e-4  # of logits, above which a verdict may not change


@dataclass(frozen=True)
class Probes:
    """Attributes:
    random: true if two passes over the same images disagree.
    probabilities: true if every output lies in [0, 1] and each row sums to 1: softmax is inside the model.
    optimises: true if the forward pass calls autograd: a defence that adapts at test time.
    zero_gradients: share of the images that are classified correctly and at which the cross-entropy's gradient is zero
        everywhere.
    """

    random: bool
    probabilities: bool
    optimises: bool
    zero_gradients: float
    num_images: int


def probe(model: nn.Module, data: DeviceImages, index: Tensor, right: Tensor, *, batch_size: int) -> Probes:
    """Probe `model`, in eval mode, on the images `index` of `data`; `right` [n] marks those it classifies correctly."""
    random, probabilities, zero = False, True, 0
    for chosen, classified in zip(index.to(data.device).split(batch_size), right.split(batch_size), strict=True):
        x, y = data.batch(chosen)
        with torch.no_grad():
            first, second = model(x).float(), model(x).float()
        random |= bool((first - second).abs().max() > SAME)
        sums = first.sum(1)
        probabilities &= bool((first >= 0).all() and ((sums - 1).abs() < SUM_TO_ONE).all())
        zero += int((_gradient_is_zero(model, x, y) & classified).sum())
    optimises = _optimises(model, data.batch(index[:2].to(data.device))[0])
    return Probes(random, probabilities, optimises, zero / len(index), len(index))


def _gradient_is_zero(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    try:
        gradient = input_gradient(model, x, y, cross_entropy)
    except RuntimeError:  # the output does not depend on the input by any operation with a derivative
        return torch.ones(len(x), dtype=torch.bool, device=x.device)
    return (gradient == 0).flatten(1).all(1)


def _optimises(model: nn.Module, x: Tensor) -> bool:
    """Return whether a forward pass calls autograd."""
    calls: list[Callable[..., Any]] = []

    def noting(function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any, **settings: Any) -> Any:
            calls.append(function)
            return function(*arguments, **settings)

        return called

    with (
        patch("torch.autograd.grad", noting(torch.autograd.grad)),
        patch("torch.autograd.backward", noting(torch.autograd.backward)),
        torch.enable_grad(),
    ):
        model(x)
    return bool(calls)


@dataclass(frozen=True)
class Rescoring:
    """`changed`: images with a margin above 1e-4 whose verdict differs between batch sizes; `close`: those below it."""

    num_images: int
    changed: int
    close: int


@torch.no_grad()
def rescore(
    model: nn.Module, examples: np.ndarray, labels: np.ndarray, positions: np.ndarray, device: torch.device
) -> Rescoring:
    """Score `examples` [n, C, H, W] at `positions` in batches of 64, 512 and 1, in float32.

    The margin is the distance between the two largest logits.
    """
    right, margins = [], np.zeros(len(positions))
    for size in BATCHES:
        verdicts = []
        for start in range(0, len(positions), size):
            chosen = positions[start : start + size]
            x = torch.from_numpy(np.array(examples[chosen])).to(device).contiguous(memory_format=torch.channels_last)
            logits = model(x).float()
            verdicts.append(logits.argmax(1).cpu().numpy() == labels[chosen])
            if size == BATCHES[0]:
                top = logits.topk(2, dim=1).values
                margins[start : start + size] = (top[:, 0] - top[:, 1]).cpu().numpy()
        right.append(np.concatenate(verdicts) if verdicts else np.zeros(0, bool))
    differ = np.logical_or.reduce([right[0] != other for other in right[1:]])
    clear = margins > CLEAR_MARGIN
    return Rescoring(len(positions), int((differ & clear).sum()), int((~clear).sum()))
