"""A model on a device, in a memory format and a precision that it takes."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from fedrobust.data.spec import one_line
from fedrobust.errors import ConfigError


class Contiguous(nn.Module):
    """`model` on a copy of the images whose memory lies as their shape says: what `.view` and in-place layers need."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x.clone(memory_format=torch.contiguous_format))


def placed(model: nn.Module, images: Tensor, num_classes: int, *, gradients: bool) -> nn.Module:
    """`model` on the device of `images`, channels-last if it takes that, which is fastest, else `Contiguous`.

    A model that takes float32 in neither, because its weights are in half or double precision, is converted: all is
    evaluated in float32. No weight says what a model takes, so it is asked for logits of two images and of one.

    Args:
        images: some, [B, C, H, W] in float32, channels-last.
        gradients: whether it must have input gradients, as most attacks need them.

    Raises:
        ConfigError: it fails on these images, does not give logits [B, K], or has no input gradient.
    """
    problem: Exception | None = None
    for candidate in _candidates(model.to(images.device)):
        try:
            with torch.random.fork_rng(devices=[images.device] if images.device.type == "cuda" else []):
                for x in (images[:2], images[:1]):
                    _try(candidate, x, num_classes, gradients=gradients)
        except ConfigError:
            raise
        except Exception as error:  # a model raises what it likes
            problem = error
        else:
            return candidate
    shape = "×".join(map(str, images.shape[1:]))
    raise ConfigError(
        f"the model fails on images of {shape} ({type(problem).__name__}: {one_line(problem)})"  # type: ignore[arg-type]
    ) from problem


def _candidates(model: nn.Module) -> Iterator[nn.Module]:
    yield model.to(memory_format=torch.channels_last)
    yield Contiguous(model.to(memory_format=torch.contiguous_format))
    if any(value.is_floating_point() and value.dtype != torch.float32 for value in model.state_dict().values()):
        yield model.float().to(memory_format=torch.channels_last)
        yield Contiguous(model.to(memory_format=torch.contiguous_format))


def _try(model: nn.Module, images: Tensor, num_classes: int, *, gradients: bool) -> None:
    """Raise ConfigError for what no memory format or precision mends, anything else for what one might."""
    x = images.clone().requires_grad_(gradients)
    with torch.set_grad_enabled(gradients):
        logits = model(x)
        if not isinstance(logits, Tensor):
            raise ConfigError(
                f"the model gives a {type(logits).__name__}, not logits: wrap it so that it returns one tensor "
                f"[B, {num_classes}]"
            )
        if logits.shape != (len(x), num_classes):
            raise ConfigError(
                f"the model's output has shape {tuple(logits.shape)}, expected logits of shape {(len(x), num_classes)}"
            )
        if gradients and not _has_gradient(logits, x):
            raise ConfigError(
                "the model has no gradient of its input (torch.no_grad, detach or rounding in its forward pass?): only "
                "square and noise attack such a model, with --no-checks"
            )
    if not torch.equal(x, images):
        raise ValueError("it changes its input in place")


def _has_gradient(logits: Tensor, x: Tensor) -> bool:
    if not logits.requires_grad:
        return False
    return torch.autograd.grad(logits.float().sum(), x, allow_unused=True)[0] is not None
