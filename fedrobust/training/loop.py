"""The local training loop, used by a client on its shard and by centralised training on all the data.

For speed, images lie on the device as uint8, a shard is an index into them, augmentation is
batched there, and nothing is read back before the last step (no host synchronisation inside an epoch). `step` has what
one step computes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

import torch
from torch import Tensor, nn

from fedrobust.data.device import Augmentation, DeviceImages
from fedrobust.objectives import Objective
from fedrobust.seeding import int_stream, seeded_layers, torch_stream
from fedrobust.training.sgd import SGD
from fedrobust.training.step import training_step


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
    optimizer: SGD | None = None,
    capture: bool = True,
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
        optimizer: an optimiser that keeps its state and learning rate; None begins anew with those of `schedule`.
        capture: whether to capture steps in CUDA graphs, on CUDA (`TrainingStep`).
        after_step: function that is called after each step of the optimiser.

    Every epoch visits the images in a new order; the last batch of an epoch may be smaller, or by one image larger.

    Raises:
        FloatingPointError: the mean loss is not finite.
        RunFailed: batch norm got a batch of one image, for which there is no variance; or a step that waits for the
            device was to be captured.
    """
    start = perf_counter()
    device = data.device
    order = torch_stream(seed, *stream, "order")
    step = training_step(
        model,
        data,
        objective,
        optimizer=optimizer,
        momentum=schedule.momentum,
        weight_decay=schedule.weight_decay,
        augmentation=augmentation,
        precision=precision,
        proximal_mu=schedule.proximal_mu,
        capture=capture,
    )
    if optimizer is None:
        step.optimizer.forget()
        step.optimizer.learning_rate = schedule.learning_rate
    steps, total = 0, schedule.num_steps(len(index))
    sizes = schedule.batch_sizes(len(index))
    model.train()
    step.begin(int_stream(seed, *stream, "batch"))
    with seeded_layers(seed, *stream, device=device):
        while steps < total:
            shuffled = index[torch.randperm(len(index), generator=order).to(index.device)].to(device)
            for chosen in shuffled.split(sizes)[: total - steps]:
                step(chosen)
                after_step()
                steps += 1
    loss, natural, adversarial = step.sums()
    loss /= max(step.images, 1)
    if not math.isfinite(loss):
        raise FloatingPointError(f"training diverged: mean loss {loss} after {steps} steps; lower local.learning-rate")
    return TrainingSummary(
        steps,
        step.images,
        perf_counter() - start,
        loss,
        natural / step.natural_images if step.natural_images else None,
        adversarial / step.adversarial_images if step.adversarial_images else None,
    )
