"""One pass over some images: natural accuracy, robust accuracy under each attack of a suite, and the worst case."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from fedrobust.attacks import attack_mode
from fedrobust.config import WORST_CASE
from fedrobust.data.device import DeviceImages
from fedrobust.evaluation.suite import EvaluationAttack
from fedrobust.evaluation.verdicts import ROBUST, attack_steps, classify, first_verdicts
from fedrobust.hardware.process import exact_products
from partitions import class_counts


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Accuracies, fractions in [0, 1] of `num_images`, and the mean natural cross-entropy.

    `robust_accuracy` has an entry for each attack and, with several attacks, "worst-case": the images on which none
    succeeded.
    """

    num_images: int
    loss: float
    natural_accuracy: float
    robust_accuracy: dict[str, float]
    labels: np.ndarray
    """Labels [n] of the images."""
    stands: dict[str, np.ndarray]
    """Masks, bool [n] each: the images that count for "natural" and for each entry of `robust_accuracy`."""

    def metrics(self) -> dict[str, float]:
        """Return flat metrics as records name them: `robust_accuracy.pgd-20`."""
        return {
            "loss": self.loss,
            "natural_accuracy": self.natural_accuracy,
            **{f"robust_accuracy.{name}": value for name, value in self.robust_accuracy.items()},
        }

    def per_class(self, num_classes: int) -> dict[str, list[float | None]]:
        """Return each accuracy by class [K]; None if no image has the class."""
        parts = [np.arange(len(self.labels)), *(stands.nonzero()[0] for stands in self.stands.values())]
        images, *standing = class_counts(self.labels, parts, num_classes).tolist()
        return {
            name: [right / all_ if all_ else None for right, all_ in zip(rights, images, strict=True)]
            for name, rights in zip(self.stands, standing, strict=True)
        }


def evaluate(
    model: nn.Module,
    data: DeviceImages,
    index: Tensor,
    suite: Sequence[EvaluationAttack],
    *,
    batch_size: int,
    seed: int,
    stream: tuple[str | int, ...] = ("evaluation",),
) -> Evaluation:
    """Evaluate `model` on the images `index` of `data`, in float32 and eval mode.

    An image counts as robust against an attack only if it is also classified correctly without the attack, and for the
    worst case only if it counts under every attack. With epsilon = 0 robust equals natural accuracy.
    `evaluation.verdicts` documents how images are attacked.

    Raises:
        RunFailed: a logit is NaN or infinite.
    """
    robust: dict[str, np.ndarray] = {}
    with attack_mode(model, "eval"), exact_products():
        natural = classify(model, data, index, batch_size=batch_size)
        for attack in suite:
            verdicts = first_verdicts(natural)
            steps = attack_steps(model, data, index, attack, verdicts, batch_size=batch_size, seed=seed, stream=stream)
            for _ in steps:
                pass
            robust[attack.name] = (verdicts == ROBUST).cpu().numpy()
    if len(robust) > 1:
        robust[WORST_CASE] = np.logical_and.reduce(list(robust.values()))
    right = natural.right.cpu().numpy()
    return Evaluation(
        num_images=len(index),
        loss=natural.loss.mean().item(),
        natural_accuracy=_share(right),
        robust_accuracy={name: _share(stands) for name, stands in robust.items()},
        labels=data.labels[index.to(data.device)].cpu().numpy(),
        stands={"natural": right, **robust},
    )


def _share(of: np.ndarray) -> float:
    return int(of.sum()) / len(of)
