"""One pass over some images: natural accuracy, and robust accuracy under each attack of a suite."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedrobust.attacks import attack_mode
from fedrobust.data.device import DeviceImages
from fedrobust.evaluation.suite import EvaluationAttack
from fedrobust.seeding import torch_stream


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

    An image counts as robust against an attack only if it is classified rightly without the attack, too: an attack
    that moves a wrong image to its right class gains nothing. With epsilon = 0 robust equals natural accuracy.
    Each attack draws from its own stream, batch by batch, so that adding one changes none of the others.
    """
    device = data.device
    correct = torch.zeros((), device=device)
    loss = torch.zeros((), device=device)
    robust = {attack.name: torch.zeros((), device=device) for attack in suite}
    generators = {a.name: torch_stream(seed, *stream, a.name, device=device) for a in suite}
    with attack_mode(model, "eval"):
        for chosen in index.to(device).split(batch_size):
            x, y = data.batch(chosen)
            with torch.no_grad():
                logits = model(x).float()
            right = logits.argmax(1) == y
            correct += right.sum()
            loss += F.cross_entropy(logits, y, reduction="sum")
            for attack in suite:
                x_adv = attack.run(model, x, y, generator=generators[attack.name])
                with torch.no_grad():
                    robust[attack.name] += (right & (model(x_adv).argmax(1) == y)).sum()
    n = len(index)
    return Evaluation(
        n,
        loss.item() / n,
        correct.item() / n,
        {name: value.item() / n for name, value in robust.items()},
    )
