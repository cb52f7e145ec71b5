"""One pass over some images: natural accuracy, and robust accuracy under each attack of a suite."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from fedrobust.attacks import attack_mode
from fedrobust.data.device import DeviceImages
from fedrobust.evaluation.suite import EvaluationAttack
from fedrobust.evaluation.verdicts import STANDS, attack_steps, classify, first_verdicts


@dataclass(frozen=True)
class Evaluation:
    """Accuracies are fractions in [0, 1] of `num_images`; the loss is the mean natural cross-entropy."""

    num_images: int
    loss: float
    natural_accuracy: float
    robust_accuracy: dict[str, float]

    def metrics(self) -> dict[str, float]:
        """Flat, as records name them: `robust_accuracy.pgd-20`."""
        return {
            "loss": self.loss,
            "natural_accuracy": self.natural_accuracy,
            **{f"robust_accuracy.{name}": value for name, value in self.robust_accuracy.items()},
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

    An image counts as robust against an attack only if it is classified rightly without the attack, too. With
    epsilon = 0 robust equals natural accuracy. `evaluation.verdicts` says how images are attacked.

    Raises:
        RunFailed: a logit is NaN or infinite.
    """
    num_images, robust = len(index), {}
    with attack_mode(model, "eval"):
        natural = classify(model, data, index, batch_size=batch_size)
        for attack in suite:
            verdicts = first_verdicts(natural)
            steps = attack_steps(model, data, index, attack, verdicts, batch_size=batch_size, seed=seed, stream=stream)
            for _ in steps:
                pass
            robust[attack.name] = (verdicts == STANDS).sum().item() / num_images
    return Evaluation(num_images, natural.loss.mean().item(), natural.right.sum().item() / num_images, robust)
