"""Requirements on a model to be evaluated: pixels in [0, 1] to finite logits, placed on a device."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from fedrobust.attacks.contract import input_gradient
from fedrobust.data import Dataset
from fedrobust.data.device import DeviceImages
from fedrobust.data.spec import one_line
from fedrobust.errors import ConfigError
from fedrobust.losses import cross_entropy

ON_CPU = 64  # activations of more fall out of the caches
TRIED, MOST = 64, 4096
SPARE = 0.5  # of the free memory: attacks keep images, gradients and candidates beside the pass that is measured
NUM_IMAGES, AT_ONCE = 256, 64
CONTRACT = "pixels in [0, 1]"
CLEARLY_BETTER, AT_LEAST = 0.1, 10  # in accuracy, and in images: of four images one more says nothing


class Contiguous(nn.Module):
    """A wrapper that runs `model` on a copy of the images in contiguous memory, as `.view` and in-place layers need."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x.clone(memory_format=torch.contiguous_format))


def placed(model: nn.Module, images: Tensor, num_classes: int, *, gradients: bool) -> nn.Module:
    """Return `model` on the device of `images`, channels-last if it accepts that, which is fastest, else in
    `Contiguous`.

    A model whose weights are in half or double precision is converted: all is evaluated in float32. Weights do not show
    the accepted format, so the model is tried on two images and on one.

    Args:
        images: some images, [B, C, H, W], float32, channels-last.
        gradients: also require input gradients, as most attacks need them.

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
    """Raise ConfigError for failures in every memory format and precision, and any other error for the rest."""
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


def fitting_batch_size(
    model: nn.Module, image_shape: tuple[int, int, int], device: torch.device, *, gradients: bool = True
) -> int:
    """Return a power of two that fits: on CUDA by the memory of one forward and backward pass; on a CPU a fixed one.

    gradients: true if there is a backward pass.
    """
    if device.type != "cuda":
        return ON_CPU
    model = model.to(device)
    x = torch.rand(TRIED, *image_shape, device=device).contiguous(memory_format=torch.channels_last)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    if gradients:
        input_gradient(model, x, torch.zeros(TRIED, dtype=torch.int64, device=device), cross_entropy)
    else:
        with torch.no_grad():
            model(x)
    each = max((torch.cuda.max_memory_allocated(device) - before) / TRIED, 1.0)
    fits = SPARE * torch.cuda.mem_get_info(device)[0] / each
    return max(1, min(MOST, 1 << int(fits).bit_length() - 1)) if fits >= 1 else 1


def admitted(
    model: nn.Module, dataset: Dataset, data: DeviceImages, index: Tensor, *, gradients: bool = True
) -> nn.Module:
    """Return `model`, `placed` on the device of `data`; raise if its robust accuracy would have no meaning.

    The contract is [0, 1] pixels in, logits out, normalisation inside the model: else epsilon would be of another
    size. Weights do not show the expected range, so the model is tried: one that is clearly more accurate on
    normalised pixels, or on pixels in 0..255, than on those in [0, 1] violates the contract.

    Args:
        gradients: as for `placed`.

    Raises:
        ConfigError: a module is in train mode, `placed` refuses the model, logits are not finite, or the model does not
            expect pixels in [0, 1]; the message says what to do.
    """
    for name, module in model.named_modules():
        if module.training:
            raise ConfigError(
                f"the model is in train mode ({name or 'as a whole'}): call .eval() before the evaluation"
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
                    "the model's logits are not finite on natural images: its accuracy would have no meaning"
                )
            accuracy[kind] += (logits.argmax(1) == y).sum().item() / len(index)
    contract, *others = accuracy.items()
    for kind, value in others:
        if value > contract[1] + max(CLEARLY_BETTER, AT_LEAST / len(index)):
            raise ConfigError(
                f"the model expects {kind} (accuracy {value:.1%}, on {contract[0]} {contract[1]:.1%}): put the "
                "conversion into the model as its first layer (fedrobust.models.layers), so that epsilon is in "
                "[0, 1] units"
            )
