"""One step of training as a function of the images' indices, and its capture in CUDA graphs."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from fedrobust.data.device import Augmentation, DeviceImages
from fedrobust.errors import RunFailed
from fedrobust.objectives import Objective
from fedrobust.training.sgd import SGD, trainable

KEPT = 4  # steps with their graphs: a federation needs one, and one more while its strategy trains another objective


class TrainingStep:
    """A step of training: batch, augmentation, attack, loss, gradient, FedProx' term, SGD, and sums for the summary.

    Everything that changes from step to step lies in tensors that stay where they are: weights, momenta, learning rate,
    FedProx' anchor, sums, the generator's state. So a step can be captured in a CUDA graph, which replaces several
    hundred launches by one. On CUDA the first batch of each size runs as it is written, which initialises the
    libraries; before the second it is captured, and from then on replayed. The objective draws the same numbers from
    `generator` either way.

    Args:
        proximal_mu: μ ≥ 0 of FedProx' term, whose gradient μ (w − w_start) is added; w_start are the weights at
            `begin`.
        capture: whether to capture steps; without effect on a device other than CUDA.
    """

    def __init__(
        self,
        model: nn.Module,
        data: DeviceImages,
        objective: Objective,
        optimizer: SGD,
        *,
        augmentation: Augmentation,
        precision: torch.dtype,
        proximal_mu: float,
        capture: bool,
    ) -> None:
        self.optimizer, self.generator = optimizer, torch.Generator(data.device)
        self._model, self._data, self._objective = model, data, objective
        self._augmentation, self._precision, self._mu = augmentation, precision, proximal_mu
        self._anchor = [torch.empty_like(p, requires_grad=False) for p in optimizer.parameters] if proximal_mu else []
        # loss times images; correct natural and adversarial examples
        self._sums = torch.zeros(3, device=data.device)
        self._graphs: dict[int, _Graph | None] = {}
        self._pool: Any = torch.cuda.graph_pool_handle() if capture and data.device.type == "cuda" else None

    def begin(self, seed: int) -> None:
        """Start a training: set the generator's seed, the anchor and the sums."""
        self.generator.manual_seed(seed)
        for start, parameter in zip(self._anchor, self.optimizer.parameters, strict=False):
            start.copy_(parameter.detach())
        self._sums.zero_()
        self.images = self.natural_images = self.adversarial_images = 0

    def __call__(self, chosen: Tensor) -> None:
        """Take a step on the images `chosen`, int64 [B], on the device."""
        size = len(chosen)
        if self._pool is None:
            natural, adversarial = self._take(chosen)
        elif size not in self._graphs:
            natural, adversarial = self._take(chosen)
            self._graphs[size] = None
        else:
            graph = self._graphs[size] or _Graph(self, chosen, self._pool)
            self._graphs[size] = graph
            natural, adversarial = graph.replay(chosen)
        self.images += size
        self.natural_images += natural
        self.adversarial_images += adversarial

    def sums(self) -> tuple[float, float, float]:
        """Return the sum of loss times images, and the numbers of correct natural and adversarial examples. Waits for
        the device.
        """
        loss, natural, adversarial = self._sums.tolist()
        return loss, natural, adversarial

    def _take(self, chosen: Tensor) -> tuple[int, int]:
        """Take a step; return the numbers of natural and adversarial examples whose logits were seen."""
        device = chosen.device
        x, y = self._data.batch(chosen)
        x = self._augmentation(x, self.generator)
        with torch.autocast(device.type, torch.bfloat16, enabled=self._precision == torch.bfloat16), _one_image():
            output = self._objective(self._model, x, y, self.generator)
        # not `backward`: its accumulation into .grad belongs to the stream of the first pass, which a capture leaves
        gradients = list(torch.autograd.grad(output.loss, self.optimizer.parameters, allow_unused=True))
        with torch.no_grad():
            for start, parameter, gradient in zip(self._anchor, self.optimizer.parameters, gradients, strict=False):
                if gradient is not None:
                    gradient.add_(parameter - start, alpha=self._mu)
        self.optimizer.step(gradients)
        self._sums[0] += output.loss.detach() * len(y)
        # `ObjectiveOutput`: adversarial logits are of the first images of the batch, natural ones of the last
        counts = [0, 0]
        if (logits := output.natural_logits) is not None:
            self._sums[1] += (logits.argmax(1) == y[-len(logits) :]).sum()
            counts[0] = len(logits)
        if (logits := output.adversarial_logits) is not None:
            self._sums[2] += (logits.argmax(1) == y[: len(logits)]).sum()
            counts[1] = len(logits)
        return counts[0], counts[1]


class _Graph:
    """A CUDA graph of a step for one batch size; the capture itself executes nothing."""

    def __init__(self, step: TrainingStep, chosen: Tensor, pool: Any) -> None:
        self._chosen = chosen.clone()
        self._graph = torch.cuda.CUDAGraph()
        self._graph.register_generator_state(step.generator)
        gc.collect()  # autograd nodes of the first pass, kept by cycles, would draw their stream into the capture
        try:
            with torch.cuda.graph(self._graph, pool=pool):
                self._counts = step._take(self._chosen)
        except RuntimeError as error:
            raise RunFailed(
                f"the training step cannot be captured in a CUDA graph ({str(error).splitlines()[0]}); "
                "set cuda-graphs = false"
            ) from error

    def replay(self, chosen: Tensor) -> tuple[int, int]:
        self._chosen.copy_(chosen)
        self._graph.replay()
        return self._counts


def training_step(
    model: nn.Module,
    data: DeviceImages,
    objective: Objective,
    *,
    optimizer: SGD | None,
    momentum: float,
    weight_decay: float,
    augmentation: Augmentation,
    precision: torch.dtype,
    proximal_mu: float,
    capture: bool,
) -> TrainingStep:
    """Return the step for these objects; on CUDA the same one at each call, so that its graphs serve a whole run.

    Args:
        optimizer: None makes one with `momentum` and `weight_decay`.
    """
    make = _kept_step if _keeps(data.device) else _kept_step.__wrapped__
    addresses = tuple(parameter.data_ptr() for parameter in trainable(model))  # what a graph reads and writes
    optimizing = optimizer or (momentum, weight_decay)
    return make(model, data, objective, optimizing, augmentation, precision, proximal_mu, capture, addresses)


def _keeps(device: torch.device) -> bool:
    """Return whether steps are kept: where they are captured."""
    return device.type == "cuda"


@lru_cache(maxsize=KEPT)
def _kept_step(
    model: nn.Module,
    data: DeviceImages,
    objective: Objective,
    optimizing: SGD | tuple[float, float],
    augmentation: Augmentation,
    precision: torch.dtype,
    proximal_mu: float,
    capture: bool,
    addresses: tuple[int, ...],
) -> TrainingStep:
    if isinstance(optimizing, tuple):
        momentum, weight_decay = optimizing
        optimizing = SGD(trainable(model), learning_rate=0.0, momentum=momentum, weight_decay=weight_decay)
    return TrainingStep(
        model,
        data,
        objective,
        optimizing,
        augmentation=augmentation,
        precision=precision,
        proximal_mu=proximal_mu,
        capture=capture,
    )


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
