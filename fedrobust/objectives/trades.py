"""TRADES."""

import torch
from torch import Tensor, nn

from fedrobust.attacks.contract import Attack, Mode
from fedrobust.losses import cross_entropy, kl_divergence
from fedrobust.objectives.step import Step, divergence_attacked


def trades(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    generator: torch.Generator | None = None,
    *,
    attack: Attack,
    trades_beta: float = 6.0,
    label_smoothing: float = 0.0,
    attack_mode: Mode = "eval",
) -> Step:
    """mean CE(x, y) + β mean KL(softmax z(x) ‖ softmax z(x′)), x′ raising the same KL.

    Zhang et al. 2019, official code: two forward passes, natural first, so that batch norm sees each kind of
    input by itself; gradients flow through both sides of the outer KL. Limit case: β = 0, `natural`.
    The attack must not start at x, where the KL has no gradient (the paper: gaussian).

    Deviation: the natural logits of the attack are taken once, not again in every step; they are the same.

    Args:
        trades_beta: β ≥ 0, 1/λ in the paper; 6 there for CIFAR-10.
    """
    x_adv, _ = divergence_attacked(model, x, attack=attack, loss=kl_divergence, mode=attack_mode, generator=generator)
    natural_logits, adversarial_logits = model(x).float(), model(x_adv).float()
    divergence = kl_divergence(adversarial_logits, natural_logits).mean()
    loss = cross_entropy(natural_logits, y, label_smoothing).mean() + trades_beta * divergence
    return Step(loss, natural_logits.detach(), adversarial_logits.detach())
