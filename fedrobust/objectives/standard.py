"""Ordinary training, and training on adversarial examples: all of the batch, or part of it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedrobust.attacks.contract import Attack, Mode
from fedrobust.losses import cross_entropy
from fedrobust.objectives.step import ObjectiveOutput, attacked


def natural(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    generator: torch.Generator | None = None,
    *,
    label_smoothing: float = 0.0,
) -> ObjectiveOutput:
    """Compute the mean cross-entropy on x; nothing is attacked, nothing is random."""
    logits = model(x).float()
    return ObjectiveOutput(cross_entropy(logits, y, label_smoothing).mean(), logits.detach(), None)


def at(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    generator: torch.Generator | None = None,
    *,
    attack: Attack,
    label_smoothing: float = 0.0,
    attack_mode: Mode = "eval",
) -> ObjectiveOutput:
    """Compute the mean cross-entropy on x′: min E max CE (Madry et al. 2018). Limit case: epsilon = 0, `natural`.

    Labels are smoothed in the outer loss only; the attack maximises its own loss.
    """
    x_adv = attacked(model, x, y, attack=attack, mode=attack_mode, generator=generator)
    logits = model(x_adv).float()
    return ObjectiveOutput(cross_entropy(logits, y, label_smoothing).mean(), None, logits.detach())


def mixed(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    generator: torch.Generator | None = None,
    *,
    attack: Attack,
    adversarial_fraction: float = 0.5,
    noise_sigma: float = 0.0,
    label_smoothing: float = 0.0,
    attack_mode: Mode = "eval",
) -> ObjectiveOutput:
    """Compute the mean cross-entropy of a batch whose first part is adversarial, in one forward pass.

    MixFAT (Zizzo et al. 2020) on a shuffled batch. Deviation from Goodfellow et al. (2015, section 6), who
    weigh the natural and the adversarial loss of every example, at twice the cost. With noise it is Dang et al.'s
    augmentation (2025), PGD examples and Gaussian noise, whose shares and σ they do not give. Limit cases: fraction
    0 without noise is `natural`, fraction 1 is `at`.

    Args:
        adversarial_fraction: share of the batch that is attacked, in [0, 1], rounded to whole examples.
        noise_sigma: σ ≥ 0 in pixel units of the noise N(0, σ²) on every pixel of the natural part, clipped to [0, 1].

    Raises:
        ValueError: a fraction outside [0, 1].
    """
    if not 0 <= adversarial_fraction <= 1:
        raise ValueError(f"adversarial_fraction = {adversarial_fraction}: must be in [0, 1]")
    count = int(adversarial_fraction * len(x) + 0.5)
    if count:
        x_adv = attacked(model, x[:count], y[:count], attack=attack, mode=attack_mode, generator=generator)
        x = torch.cat([x_adv, _noisy(x[count:], noise_sigma, generator)]) if count < len(x) else x_adv
    else:
        x = _noisy(x, noise_sigma, generator)
    logits = model(x).float()
    parts = logits.detach()
    return ObjectiveOutput(
        cross_entropy(logits, y, label_smoothing).mean(),
        natural_logits=parts[count:] if count < len(x) else None,
        adversarial_logits=parts[:count] if count else None,
    )


def _noisy(x: Tensor, sigma: float, generator: torch.Generator | None) -> Tensor:
    """Return x + N(0, sigma²), clipped to [0, 1]; if sigma is 0, x itself, and nothing is drawn."""
    if not sigma:
        return x
    noise = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
    return x.add(noise, alpha=sigma).clamp_(0, 1)
