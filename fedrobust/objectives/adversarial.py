"""Training on adversarial examples: all of the batch, or part of it."""

import torch
from torch import Tensor, nn

from fedrobust.attacks.contract import Attack, Mode
from fedrobust.losses import cross_entropy
from fedrobust.objectives.step import Step, attacked


def at(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    generator: torch.Generator | None = None,
    *,
    attack: Attack,
    attack_mode: Mode = "eval",
) -> Step:
    """Mean cross-entropy on x′: min E max CE (Madry et al. 2018). Limit case: epsilon = 0, `natural`."""
    x_adv = attacked(model, x, y, attack=attack, mode=attack_mode, generator=generator)
    logits = model(x_adv).float()
    return Step(cross_entropy(logits, y).mean(), None, logits.detach())


def mixed(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    generator: torch.Generator | None = None,
    *,
    attack: Attack,
    adversarial_fraction: float = 0.5,
    attack_mode: Mode = "eval",
) -> Step:
    """Mean cross-entropy of a batch whose first part is adversarial, in one forward pass.

    MixFAT (Zizzo et al. 2020) on a shuffled batch. Deviation from Goodfellow et al. (2015, section 6), who
    weigh the natural and the adversarial loss of every example, at twice the cost. Limit cases: fraction 0 is
    `natural`, fraction 1 is `at`.

    Args:
        adversarial_fraction: in [0, 1]; the part is rounded to whole examples.

    Raises:
        ValueError: a fraction outside [0, 1].
    """
    if not 0 <= adversarial_fraction <= 1:
        raise ValueError(f"adversarial_fraction = {adversarial_fraction}: must be in [0, 1]")
    count = int(adversarial_fraction * len(x) + 0.5)
    if count:
        x_adv = attacked(model, x[:count], y[:count], attack=attack, mode=attack_mode, generator=generator)
        x = torch.cat([x_adv, x[count:]]) if count < len(x) else x_adv
    logits = model(x).float()
    parts = logits.detach()
    return Step(
        cross_entropy(logits, y).mean(),
        natural_logits=parts[count:] if count < len(x) else None,
        adversarial_logits=parts[:count] if count else None,
    )
