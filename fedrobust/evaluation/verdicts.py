"""The verdict on each image: correct without an attack, and robust or misclassified under one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedrobust.data.device import DeviceImages
from fedrobust.errors import RunFailed
from fedrobust.evaluation.suite import EvaluationAttack
from fedrobust.seeding import torch_stream

ROBUST, MISCLASSIFIED = -1, 0
"""Verdicts, int16 per image: ROBUST; MISCLASSIFIED without any attack; k ≥ 1, misclassified by the k-th stage."""


@dataclass(frozen=True)
class Natural:
    """The verdicts on unperturbed images: correctness and cross-entropy, [n] each."""

    right: Tensor
    loss: Tensor


@torch.no_grad()
def classify(model: nn.Module, data: DeviceImages, index: Tensor, *, batch_size: int) -> Natural:
    """Run the model, in its current mode, on the images `index` of `data`, in float32.

    Raises:
        RunFailed: a logit is NaN or infinite.
    """
    right, loss = [], []
    for chosen in index.to(data.device).split(batch_size):
        x, y = data.batch(chosen)
        logits = model(x).float()
        right.append(logits.argmax(1) == y)
        loss.append(F.cross_entropy(logits, y, reduction="none"))
    natural = Natural(torch.cat(right), torch.cat(loss))
    if not natural.loss.isfinite().all():  # NaN where any logit is not finite
        raise RunFailed("the model's logits are not finite on natural images: its accuracy has no meaning")
    return natural


@dataclass(frozen=True)
class AttackBatch:
    """One batch of a stage: its images (positions in the index), and the result of the attack on them.

    `share`: completed share of the stage's images.
    """

    stage: int
    share: float
    positions: Tensor
    examples: Tensor


def first_verdicts(natural: Natural) -> Tensor:
    """Return the verdicts before any attack."""
    return torch.where(natural.right, ROBUST, MISCLASSIFIED).to(torch.int16)


def attack_steps(
    model: nn.Module,
    data: DeviceImages,
    index: Tensor,
    attack: EvaluationAttack,
    verdicts: Tensor,
    *,
    batch_size: int,
    seed: int,
    stream: tuple[str | int, ...],
    source: nn.Module | None = None,
    done: int = 0,
) -> Iterator[AttackBatch]:
    """Attack the images `index` of `data`, stage by stage, batch by batch, and write the outcome into `verdicts`.

    An image is attacked until it is misclassified. An image that is misclassified without an attack is never attacked:
    moving it to its correct class would gain nothing. Before each stage, batches are refilled with the images that are
    still classified correctly. Each batch draws from its own stream, so that a resumed evaluation gives the same result
    and attacks do not affect each other.

    Args:
        verdicts: int16 [n], on the device of `data`; `first_verdicts`, or as they were after `done` steps.
        source: make the adversarial examples on this model (a transfer attack); the verdict is `model`'s.
        done: steps to skip.

    Raises:
        RunFailed: a logit is NaN or infinite.
    """
    index, number = index.to(data.device), 0
    for stage, chained in enumerate(attack.stages, start=1):
        # what stood before this stage: on resuming, some of it may be broken by this very stage
        standing = ((verdicts == ROBUST) | (verdicts >= stage)).nonzero().flatten()
        for batch, positions in enumerate(standing.split(batch_size) if len(standing) else ()):
            number += 1
            if number <= done:
                continue
            x, y = data.batch(index[positions])
            generator = torch_stream(seed, *stream, attack.name, stage, batch, device=data.device)
            examples = chained.run(model if source is None else source, x, y, generator=generator)
            with torch.no_grad():
                logits = model(examples).float()
            if not logits.isfinite().all():
                raise RunFailed(f"{attack.name}: the model's logits are not finite on an adversarial example")
            broken = logits.argmax(1) != y
            verdicts[positions[broken]] = stage
            share = min(1.0, (batch + 1) * batch_size / len(standing))
            yield AttackBatch(stage, share, positions, examples)
