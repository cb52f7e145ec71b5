"""CalFAT's local objective."""

from functools import partial

import torch
from torch import Tensor, nn

from fedrobust.attacks.contract import Attack, Mode
from fedrobust.losses import calibrated_cross_entropy, calibrated_kl_divergence, log_class_counts
from fedrobust.objectives.step import ObjectiveOutput, divergence_attacked


def calfat(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    generator: torch.Generator | None = None,
    *,
    attack: Attack,
    class_counts: Tensor,
    temperature: float = 0.1,
    scale: float = 10.0,
    attack_mode: Mode = "eval",
) -> ObjectiveOutput:
    """mean CE(softmax(s q(x′)), y), x′ raising KL(softmax q(x) ‖ softmax q(x′)), q = z + τ log(n + 1e-7).

    Chen et al. 2022 as in the official code: adversarial examples only, the inner KL without the factor s.
    Limit case: with a uniform prior, the cross-entropy of 10 z on the examples of plain KL.
    The attack must not start at x, where the KL has no gradient (the paper: gaussian).

    Deviation: the natural logits of the attack are taken once, not again in every step; they are the same.
    They are also `natural_logits` here: plain, and in the mode of the attack.

    Args:
        class_counts: n of what the client trains on, [K], on the model's device; absent classes count as 1.
        temperature: τ ≥ 0.
        scale: s > 0.
    """
    log_counts = log_class_counts(class_counts)
    inner = partial(calibrated_kl_divergence, log_counts=log_counts, temperature=temperature)
    x_adv, natural_logits = divergence_attacked(
        model, x, attack=attack, loss=inner, mode=attack_mode, generator=generator
    )
    logits = model(x_adv).float()
    losses = calibrated_cross_entropy(logits, y, log_counts=log_counts, temperature=temperature, scale=scale)
    return ObjectiveOutput(losses.mean(), natural_logits, logits.detach())
