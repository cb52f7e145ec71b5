"""The local training loop, used by a client on its shard and by centralised training on all the data.

For speed, images lie on the device as uint8, a shard is an index into them, augmentation is
batched there, and nothing is read back before the last step (no host synchronisation inside an epoch).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter

import torch
from torch import Tensor, nn

from fedrobust.data.device import Augmentation, DeviceImages
from fedrobust.errors import RunFailed
from fedrobust.objectives import Objective
from fedrobust.seeding import seeded_layers, torch_stream


@dataclass(frozen=True)
class SGDSettings:
    """The length and step sizes of SGD with momentum; its state is new unless `train` is given an optimiser.

    Either `epochs` passes over the data, or, if `steps` is positive, that many steps.
    `proximal_mu` > 0 adds FedProx' mu/2 * ||w - w_start||^2 to the loss (Li et al. 2020, eq. 2); 0 is plain SGD.
    """

    epochs: int = 1
    steps: int = 0
    batch_size: int = 128
    learning_rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    proximal_mu: float = 0.0

    def batch_sizes(self, num_images: int) -> list[int]:
        """Return the sizes of one epoch's batches: full ones, and a last one of the remaining images.

        A single remaining image joins the batch before: batch norm on 1 × 1 maps has no variance for one image.
        """
        full, left = divmod(num_images, self.batch_size)
        sizes = [self.batch_size] * full + [left] * (left > 0)
        return [*sizes[:-2], self.batch_size + 1] if full and left == 1 else sizes

    def num_steps(self, num_images: int) -> int:
        """Return the number of steps taken on that many images."""
        return self.steps or self.epochs * len(self.batch_sizes(num_images))

    def num_images(self, num_images: int) -> int:
        """Return the number of images in all steps on that many images, passes counted."""
        sizes = self.batch_sizes(num_images)
        passes, left = divmod(self.num_steps(num_images), len(sizes))
        return passes * num_images + sum(sizes[:left])

    def sgd(self, model: nn.Module) -> torch.optim.SGD:
        """Return a new optimiser for the trainable parameters of `model`."""
        parameters = trainable(model)
        return torch.optim.SGD(
            parameters,
            lr=self.learning_rate,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            fused=parameters[0].device.type == "cuda",
        )


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that a step changes."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


@dataclass(frozen=True)
class TrainingSummary:
    """The summary over all steps. Accuracies are those of the changing model; None if the objective does not compute
    them.
    """

    steps: int
    images: int
    seconds: float
    loss: float
    natural_accuracy: float | None
    adversarial_accuracy: float | None


class _Tally:
    """Sums on the device; read once, at the end."""

    def __init__(self, device: torch.device) -> None:
        self.correct = torch.zeros((), device=device)
        self.images = 0

    def add(self, logits: Tensor, y: Tensor) -> None:
        self.correct += (logits.argmax(1) == y).sum()
        self.images += len(y)

    def accuracy(self) -> float | None:
        return self.correct.item() / self.images if self.images else None


def train(
    model: nn.Module,
    data: DeviceImages,
    index: Tensor,
    objective: Objective,
    schedule: SGDSettings,
    *,
    augmentation: Augmentation,
    precision: torch.dtype,
    seed: int,
    stream: tuple[str | int, ...],
    optimizer: torch.optim.Optimizer | None = None,
    after_step: Callable[[], None] = lambda: None,
) -> TrainingSummary:
    """Train `model` in place on the images `index` of `data`.

    Args:
        model: maps pixels to logits; its weights change.
        data: images and labels on the model's device.
        index: indices into `data`, int64 [n], on any device; an image may occur more than once.
        objective: an objective of `make_objective`.
        schedule: epochs or steps, batch size, learning rate, momentum and weight decay.
        augmentation: function (x, generator) → x, on the device.
        precision: torch.float32, or torch.bfloat16 to run forward and backward passes under autocast; weights stay
            float32.
        seed, stream: the named stream that shuffling, augmentation and the attack draw from.
        optimizer: an optimiser that keeps its state and learning rate; None makes a new one from `schedule`.
        after_step: function that is called after each step of the optimiser.

    Every epoch visits the images in a new order; the last batch of an epoch may be smaller, or by one image larger.

    Raises:
        FloatingPointError: the mean loss is not finite.
        RunFailed: batch norm got a batch of one image, for which there is no variance.
    """
    start = perf_counter()
    device = data.device
    order = torch_stream(seed, *stream, "order")
    generator = torch_stream(seed, *stream, "batch", device=device)
    parameters = trainable(model)
    anchor = [parameter.detach().clone() for parameter in parameters] if schedule.proximal_mu else []
    optimizer = schedule.sgd(model) if optimizer is None else optimizer
    loss_sum = torch.zeros((), device=device)
    natural, adversarial = _Tally(device), _Tally(device)
    steps, images, total = 0, 0, schedule.num_steps(len(index))
    sizes = schedule.batch_sizes(len(index))
    model.train()
    with seeded_layers(seed, *stream, device=device):
        while steps < total:
            shuffled = index[torch.randperm(len(index), generator=order).to(index.device)].to(device)
            for chosen in shuffled.split(sizes)[: total - steps]:
                x, y = data.batch(chosen)
                x = augmentation(x, generator)
                with torch.autocast(device.type, torch.bfloat16, enabled=precision == torch.bfloat16), _one_image():
                    step = objective(model, x, y, generator)
                optimizer.zero_grad(set_to_none=True)
                step.loss.backward()
                _pull_towards(anchor, parameters, schedule.proximal_mu)
                optimizer.step()
                after_step()
                loss_sum += step.loss.detach() * len(y)
                # `ObjectiveOutput`: adversarial logits are of the first images of the batch, natural ones of the last
                if (logits := step.adversarial_logits) is not None:
                    adversarial.add(logits, y[: len(logits)])
                if (logits := step.natural_logits) is not None:
                    natural.add(logits, y[-len(logits) :])
                steps, images = steps + 1, images + len(y)
    loss = loss_sum.item() / max(images, 1)
    if not math.isfinite(loss):
        raise FloatingPointError(f"training diverged: mean loss {loss} after {steps} steps; lower local.learning-rate")
    return TrainingSummary(steps, images, perf_counter() - start, loss, natural.accuracy(), adversarial.accuracy())


@contextmanager
def _one_image() -> Iterator[None]:
    """Say which settings are too small if batch norm fails on a batch of one image."""
    try:
        yield
    except ValueError as error:
        if not str(error).startswith("Expected more than 1 value per channel"):
            raise
        raise RunFailed(
            "batch norm has no variance in a batch of one image: raise local.batch-size (at least 2) or give each "
            "client more images (partition.min-samples)"
        ) from error


@torch.no_grad()
def _pull_towards(anchor: list[Tensor], parameters: list[nn.Parameter], mu: float) -> None:
    """Add mu * (w - w_start) to the gradients: the derivative of FedProx' term."""
    for start, parameter in zip(anchor, parameters, strict=False):
        if parameter.grad is not None:
            parameter.grad.add_(parameter - start, alpha=mu)
